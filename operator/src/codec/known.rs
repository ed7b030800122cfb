//! JSON of another version, older or newer, read as far as this one knows it.
//!
//! A message is an object of optional parts. A part that is not known, and one with a word in it that is not, is passed over and counted; it
//! costs neither the other parts nor the stream. Of a list it costs the element that it is in. What is missing has its default.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use bytes::{Buf, BufMut};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::Form;

/// What was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many parts and elements of lists.
    pub count: u64,
    /// The first of them: where it stands, and why.
    pub first: Option<String>,
}

impl Skipped {
    fn add(&mut self, place: &str, why: &str) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{place}: {why}"));
    }
}

/// A message that is read so.
pub trait Known: Sized {
    /// Takes of the parts what this version knows.
    fn known(parts: &mut Parts<'_>) -> Self;

    /// Is told what else there was.
    fn skipped(&mut self, skipped: Skipped);
}

/// The parts of a message by name.
#[derive(Debug)]
pub struct Parts<'a> {
    parts: BTreeMap<Cow<'a, str>, &'a RawValue>,
    skipped: Skipped,
}

impl<'a> Parts<'a> {
    /// A part that is one value. `None`: it is absent, or not known.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let raw = self.raw(name)?;
        self.read(name, raw)
    }

    /// A part that has parts itself.
    pub fn take_parts<T>(&mut self, name: &str, known: impl FnOnce(&mut Parts<'_>) -> T) -> Option<T> {
        let raw = self.raw(name)?;
        self.part(name, raw, known)
    }

    /// A list of such parts.
    pub fn take_list_of<T>(&mut self, name: &str, known: impl Fn(&mut Parts<'_>) -> T) -> Vec<T> {
        let list: Vec<&RawValue> = self.raw(name).and_then(|raw| self.read(name, raw)).unwrap_or_default();
        list.into_iter().filter_map(|raw| self.part(name, raw, &known)).collect()
    }

    /// A part that is a list, without those of its elements that are not known.
    pub fn take_list<T: DeserializeOwned>(&mut self, name: &str) -> Vec<T> {
        let list: Vec<&RawValue> = self.raw(name).and_then(|raw| self.read(name, raw)).unwrap_or_default();
        self.each(name, list)
    }

    /// Elements of a list by what they belong to; without a list, what they belonged to is gone.
    pub fn take_lists<K: DeserializeOwned, T: DeserializeOwned>(&mut self, name: &str) -> Vec<(K, Option<Vec<T>>)> {
        let lists: Vec<&RawValue> = self.raw(name).and_then(|raw| self.read(name, raw)).unwrap_or_default();
        let mut known = Vec::new();
        for list in lists {
            let Some((key, list)) = self.read::<(K, Option<Vec<&RawValue>>)>(name, list) else { continue };
            known.push((key, list.map(|list| self.each(name, list))));
        }
        known
    }

    fn part<T>(&mut self, name: &str, raw: &RawValue, known: impl FnOnce(&mut Parts<'_>) -> T) -> Option<T> {
        let mut parts = Parts { parts: self.read(name, raw)?, skipped: Skipped::default() };
        let part = known(&mut parts);
        let Skipped { count, first } = parts.rest();
        self.skipped.count += count;
        self.skipped.first = self.skipped.first.take().or_else(|| Some(format!("{name}.{}", first?)));
        Some(part)
    }

    fn each<'b, T: DeserializeOwned>(&mut self, name: &str, list: impl IntoIterator<Item = &'b RawValue>) -> Vec<T> {
        list.into_iter().filter_map(|raw| self.read(name, raw)).collect()
    }

    fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        self.parts.remove(name).filter(|raw| raw.get() != "null")
    }

    fn read<'b, T: serde::Deserialize<'b>>(&mut self, name: &str, raw: &'b RawValue) -> Option<T> {
        match serde_json::from_str(raw.get()) {
            Ok(read) => Some(read),
            Err(error) => {
                self.skipped.add(name, &error.to_string());
                None
            }
        }
    }

    /// What was passed over, and whatever nobody took.
    fn rest(mut self) -> Skipped {
        for name in self.parts.into_keys() {
            self.skipped.add(&name, "not known to this version");
        }
        self.skipped
    }
}

/// Reads a message.
///
/// # Errors
///
/// It is no JSON object: nothing of it is known.
pub fn read<T: Known>(json: &[u8]) -> serde_json::Result<T> {
    let mut parts = Parts { parts: serde_json::from_slice(json)?, skipped: Skipped::default() };
    let mut message = T::known(&mut parts);
    message.skipped(parts.rest());
    Ok(message)
}

/// [`Form`] of such messages.
#[derive(Clone, Copy, Debug)]
pub enum Json {}

impl<T: Serialize + Known + Send + 'static> Form<T> for Json {
    type Encoder = Half<T>;
    type Decoder = Half<T>;

    fn encoder() -> Half<T> {
        Half(PhantomData)
    }

    fn decoder() -> Half<T> {
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

impl<T: Known> Decoder for Half<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let whole = buffer.copy_to_bytes(buffer.remaining());
        read(&whole)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("a message is no JSON object: {error}")))
    }
}
