//! What replicas say to each other: JSON in gRPC messages, each an object of optional parts, so that two versions understand each other: what
//! one does not know it passes over and counts, what is missing has its default. A part may be added, and a word to those that it has; one that
//! is there keeps its meaning. Lists in the place of objects get no more elements.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{
        self,
        known::{Json, Known, Parts, Skipped},
    },
    index::asked::Remembered,
    intent::{Pauses, ServiceKey},
    metrics::PodSample,
    translate::{decide::Told, split::ToldSplit},
    xds::proxies::Report,
};

pub(super) mod service {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::unwrap_used, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/weir.replicas.v1.Replicas.rs"));
}

/// How the generated service writes and reads.
pub type Codec<T, U> = codec::Codec<Json, T, U>;

/// What a follower says: usually one part.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Up {
    /// Who it is; in the first message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
    /// What its proxies measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// What its proxies said since the last time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxies: Vec<Report>,
    /// An operator has moved the kill switch there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// The message of this sequence, which asked for it, is carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<u64>,
    /// What this version does not know of it.
    #[serde(skip)]
    pub skipped: Skipped,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Samples {
    /// When that is said, by its clock.
    pub said: Timestamp,
    /// All of it.
    pub samples: Vec<PodSample>,
}

/// Who follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Down {
    /// The epoch in which it leads.
    pub epoch: u64,
    /// Counts the messages of a stream, from 1. The first holds everything that was decided before.
    pub sequence: u64,
    /// When it was said, by its clock; for people.
    pub at: Timestamp,
    /// It wants to be told when this is carried out.
    pub answer: bool,
    /// What it has decided of services; of one without rules, that it is gone.
    pub services: Vec<(ServiceKey, Option<Arc<Vec<Told>>>)>,
    /// What the pods of services call; nothing any more where it is `None`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<(ServiceKey, Option<Arc<Vec<Remembered>>>)>,
    /// How splits are steered, by the Service whose requests they share out; not any more where it is `None`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<(ServiceKey, Option<ToldSplit>)>,
    /// What is paused, when that has changed.
    pub pauses: Option<Pauses>,
    /// What this version does not know of it.
    #[serde(skip)]
    pub skipped: Skipped,
}

impl Known for Up {
    fn known(parts: &mut Parts<'_>) -> Self {
        Self {
            hello: parts.take_parts("hello", |parts| Hello {
                name: parts.take("name").unwrap_or_default(),
                epoch: parts.take("epoch").unwrap_or_default(),
                probe: parts.take("probe").unwrap_or_default(),
                switches: parts.take_list("switches"),
            }),
            samples: parts
                .take_parts("samples", |parts| {
                    let (said, samples) = (parts.take("said"), parts.take_list("samples"));
                    said.map(|said| Samples { said, samples })
                })
                .flatten(),
            proxies: parts.take_list_of("proxies", Report::known),
            switch: parts.take("switch"),
            taken: parts.take("taken"),
            skipped: Skipped::default(),
        }
    }

    fn skipped(&mut self, skipped: Skipped) {
        self.skipped = skipped;
    }
}

impl Known for Down {
    fn known(parts: &mut Parts<'_>) -> Self {
        Self {
            epoch: parts.take("epoch").unwrap_or_default(),
            sequence: parts.take("sequence").unwrap_or_default(),
            at: parts.take("at").unwrap_or_default(),
            answer: parts.take("answer").unwrap_or_default(),
            services: parts.take_lists("services").into_iter().map(|(key, told)| (key, told.map(Arc::new))).collect(),
            calls: parts.take_lists("calls").into_iter().map(|(key, memory)| (key, memory.map(Arc::new))).collect(),
            splits: parts.take_list("splits"),
            pauses: parts.take("pauses"),
            skipped: Skipped::default(),
        }
    }

    fn skipped(&mut self, skipped: Skipped) {
        self.skipped = skipped;
    }
}

#[cfg(test)]
mod tests;
