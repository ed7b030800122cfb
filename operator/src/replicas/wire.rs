//! What replicas say to each other: JSON in gRPC messages, so that two versions understand each other: what one does not know it skips,
//! what is missing has its default.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    intent::{Pauses, ServiceKey},
    metrics::PodSample,
    translate::decide::Told,
    xds::proxies::Report,
};

pub(super) mod service {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::unwrap_used, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/weir.replicas.v1.Replicas.rs"));
}

/// What a follower says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Up {
    /// First of all.
    Hello(Hello),
    /// What its proxies measured.
    Samples {
        /// When that is said, by its clock.
        said: Timestamp,
        /// All of it.
        samples: Vec<PodSample>,
    },
    /// What its proxies said since the last time.
    Proxies(Vec<Report>),
    /// An operator has moved the kill switch there.
    Switch(Switch),
}

/// Who follows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hello {
    /// Its name.
    pub name: String,
    /// The highest epoch that it knows.
    pub epoch: u64,
    /// It only asks whether this replica leads.
    pub probe: bool,
    /// How the kill switch was moved there while nobody led, in order.
    pub switches: Vec<Switch>,
}

/// The kill switch was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// To pause; else to resume.
    pub pause: bool,
    /// One service; absent: everything.
    pub service: Option<ServiceKey>,
}

/// What the one that decides says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Down {
    /// The epoch in which it leads.
    pub epoch: u64,
    /// Counts the messages of a stream, from 1. The first holds everything that was decided before.
    pub sequence: u64,
    /// When it was said, by its clock; for people.
    pub at: Timestamp,
    /// What it has decided of services; of one without rules, that it is gone.
    pub services: Vec<(ServiceKey, Option<Vec<Told>>)>,
    /// What is paused, when that has changed.
    pub pauses: Option<Pauses>,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Serialize + Send + 'static,
    U: DeserializeOwned + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Half<T>;
    type Decoder = Half<U>;

    fn encoder(&mut self) -> Half<T> {
        Half(PhantomData)
    }

    fn decoder(&mut self) -> Half<U> {
        Half(PhantomData)
    }
}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub struct Half<T>(PhantomData<T>);

impl<T: Serialize> Encoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(buffer.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T: DeserializeOwned> Decoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let whole = buffer.copy_to_bytes(buffer.remaining());
        let read = serde_json::from_slice(&whole);
        read.map(Some).map_err(|error| Status::invalid_argument(format!("a replica's message cannot be read: {error}")))
    }
}
