//! Follows a change of the table to each proxy and back, for whoever traces it. Knows no tracer; nothing happens when nobody
//! asks.
//!
//! A change may carry who follows it ([`Traced`]). The first responses that a stream sends after it carry it to its proxy;
//! newer changes replace older ones that a slow proxy never saw, as they do in the table.

use std::{collections::VecDeque, fmt::Debug, sync::Arc};

use super::{NodeKey, ResourceType};

/// Answers that may be outstanding for one stream; beyond, the oldest is no longer followed.
const MAX_WAITING: usize = 64;

/// Somebody who follows one change.
pub trait Traced: Debug + Send + Sync {
    /// A response that carries the change to `node` is handed to the transport.
    fn pushed(&self, node: &NodeKey, resource_type: ResourceType, resources: usize) -> Box<dyn Answer>;
}

/// Awaits what a proxy says to one response. Dropped: the stream ended before it said anything.
pub trait Answer: Debug + Send {
    /// It took the response (ACK).
    fn acknowledged(self: Box<Self>);
    /// It refused it (NACK), with these words.
    fn refused(self: Box<Self>, message: &str);
}

/// The newest followed change that a node sees.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// Counts followed changes, from 1.
    pub(super) number: u64,
    pub(super) traced: Arc<dyn Traced>,
}

/// The trail of one stream.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// Changes up to this one have reached the proxy, or were there before it came.
    arrived: u64,
    current: Option<Mark>,
    waiting: VecDeque<(String, Box<dyn Answer>)>,
}

impl Trail {
    /// Of a stream that begins when `mark` is the newest change: what it is told first is no news.
    pub(super) fn beginning_at(mark: Option<&Mark>) -> Self {
        Self { arrived: mark.map_or(0, |mark| mark.number), ..Self::default() }
    }

    /// The stream sees the table as it is with `mark`.
    pub(super) fn sees(&mut self, mark: Option<Mark>) {
        self.current = mark.filter(|mark| mark.number > self.arrived);
    }

    /// A response is sent.
    pub(super) fn pushed(&mut self, node: &NodeKey, resource_type: ResourceType, resources: usize, nonce: &str) {
        let Some(mark) = &self.current else { return };
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((nonce.to_owned(), mark.traced.pushed(node, resource_type, resources)));
    }

    /// There is nothing more to send.
    pub(super) fn said_all(&mut self) {
        if let Some(mark) = self.current.take() {
            self.arrived = mark.number;
        }
    }

    /// The proxy answered the response with this nonce; `refusal`: that it does not take it, and why.
    pub(super) fn answered(&mut self, nonce: &str, refusal: Option<&str>) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(at) = self.waiting.iter().position(|(sent, _)| sent == nonce) else { return };
        if let Some((_, answer)) = self.waiting.remove(at) {
            match refusal {
                None => answer.acknowledged(),
                Some(message) => answer.refused(message),
            }
        }
    }
}

#[cfg(test)]
mod tests;
