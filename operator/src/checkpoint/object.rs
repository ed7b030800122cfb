//! What is decided, kept in a ConfigMap of Weir's own, for a start at which no replica is left that remembers.
//!
//! Every replica holds what it would write; only the one that leads writes it, at most every 30 s, and first at once. Whoever led before and
//! does not know yet that it leads no more meets a newer version of the object, and gives way.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    time::Duration,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{Damage, Detail, Keeper, Kept, Metrics, News, Waiting, Wants, record};
use crate::{
    intent::{Pauses, ServiceKey},
    translate::decide::states,
};

/// Between the beginnings of two writes.
const PACE: Duration = Duration::from_secs(30);
/// For one question to the API server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(1);
/// Where the decisions stand, compressed.
const DECISIONS: &str = "decisions.jsonl.gz";
/// Where it stands what is paused.
const PAUSES: &str = "pauses.json";
/// Where it stands how splits are steered, compressed.
const SPLITS: &str = "splits.jsonl.gz";
/// For people: in which epoch it was written.
const EPOCH: &str = "weir.dev/epoch";
/// An object holds 1 MiB at most (the API server's bound), base64 not counted.
const MAX_BYTES: usize = 800_000;
/// Of that, what splits may take: about a thousand.
const MAX_SPLIT_BYTES: usize = 200_000;
/// What is read is ours; more than this it never is.
const MAX_READ: u64 = 256 << 20;

/// A ConfigMap in the namespace of `client`, which must exist.
#[derive(Clone)]
pub struct Place {
    /// Speaks to the API server.
    pub client: Client,
    /// Name of the ConfigMap.
    pub name: String,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether this replica may write, and as which epoch; `None`: it may not.
pub type Epoch = watch::Receiver<Option<u64>>;

/// Writes what a keeper is given.
#[derive(Debug)]
pub struct Writer {
    place: Place,
    waiting: Waiting,
    metrics: Metrics,
    lines: BTreeMap<ServiceKey, String>,
    splits: BTreeMap<ServiceKey, String>,
    pauses: Pauses,
    said: String,
}

impl Place {
    /// What is kept there. Waits for an API server that is away; what cannot be had otherwise, such as without the right to read it, is
    /// not waited for, and said.
    pub async fn read(&self) -> Kept {
        let mut said = String::new();
        loop {
            let error = match timeout(PATIENCE, self.maps().get_opt(&self.name)).await {
                Ok(Ok(Some(map))) => return self.kept(&map),
                Ok(Ok(None)) => {
                    warn!(config_map = %self.name, "there is no such ConfigMap, so decisions are not kept; the chart makes it, empty");
                    return Kept::default();
                }
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                    let why = status.message;
                    warn!(config_map = %self.name, why, "the checkpoint cannot be read; decisions begin anew");
                    return Kept::default();
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            if error != said {
                warn!(config_map = %self.name, error, "the checkpoint cannot be read yet; trying again");
                said = error;
            }
            sleep(RETRY).await;
        }
    }

    fn kept(&self, map: &ConfigMap) -> Kept {
        let mut kept = Kept::default();
        let mut damages = Vec::new();
        let whole = |reason: String| Damage { line: 0, service: None, reason };
        let data = |key: &str| map.binary_data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice());
        if let Some(compressed) = data(DECISIONS) {
            match decompressed(compressed) {
                Ok(bytes) => {
                    let (services, wrong) = record::read(&bytes);
                    damages.extend(wrong);
                    kept.decisions =
                        services.into_iter().map(|(service, at, states)| (service, (at, states))).collect();
                }
                Err(error) => damages.push(whole(format!("{DECISIONS} cannot be decompressed: {error}"))),
            }
        }
        if let Some(compressed) = data(SPLITS) {
            match decompressed(compressed) {
                Ok(bytes) => {
                    let (splits, wrong) = record::read_splits(&bytes);
                    damages.extend(wrong);
                    kept.splits = splits.into_iter().map(|(root, _, told)| (root, told)).collect();
                }
                Err(error) => damages.push(whole(format!("{SPLITS} cannot be decompressed: {error}"))),
            }
        }
        if let Some(pauses) = data(PAUSES) {
            match serde_json::from_slice(pauses) {
                Ok(pauses) => kept.pauses = pauses,
                Err(error) => damages.push(whole(format!("{PAUSES} does not say what is paused: {error}"))),
            }
        }
        for damage in &damages {
            warn!(config_map = %self.name, %damage, "kept decisions are damaged; the rest is used");
        }
        let written = kept.decisions.values().map(|(at, _)| *at).max();
        info!(config_map = %self.name, services = kept.decisions.len(), newest = ?written, "decisions were kept");
        if !damages.is_empty() {
            kept.damaged.insert(format!("ConfigMap {}", self.name).into(), damages);
        }
        kept
    }

    /// A keeper whose news are written here once the writer runs, after what was read.
    #[must_use]
    pub fn writer(self, metrics: Metrics) -> (Keeper, Writer) {
        let (keeper, waiting) = Keeper::new(Wants { decisions: Some(Detail::Restart), memories: false });
        let writer = Writer {
            place: self,
            waiting,
            metrics,
            lines: BTreeMap::new(),
            splits: BTreeMap::new(),
            pauses: Pauses::default(),
            said: String::new(),
        };
        (keeper, writer)
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.client.clone())
    }
}

impl Writer {
    /// Writes until the keeper is dropped, and a last time then.
    pub async fn run(mut self, mut epoch: Epoch) {
        let mut next_write = Instant::now();
        let mut behind = false;
        let mut open = true;
        while open {
            let may = epoch.borrow_and_update().is_some();
            tokio::select! {
                news = self.waiting.next() => match news {
                    Some(news) => {
                        self.take(news);
                        behind = true;
                        if !may {
                            // The one that leads writes them.
                            self.waiting.settle(Timestamp::now());
                        }
                        continue;
                    }
                    None => open = false,
                },
                Ok(()) = epoch.changed() => continue,
                () = sleep_until(next_write), if behind && may => {}
            }
            let Some(epoch) = *epoch.borrow() else { continue };
            if !behind {
                continue;
            }
            next_write = Instant::now() + PACE;
            match timeout(PATIENCE, self.write(epoch)).await {
                Ok(Ok(())) => {
                    behind = false;
                    self.waiting.settle(Timestamp::now());
                    self.metrics.written();
                    if !std::mem::take(&mut self.said).is_empty() {
                        info!(config_map = %self.place.name, "decisions are kept again");
                    }
                }
                Ok(Err(error)) => next_write = self.trouble(error),
                Err(_) => next_write = self.trouble(format!("no answer within {PATIENCE:?}")),
            }
        }
    }

    /// Says what is wrong, once, and when to try again.
    fn trouble(&mut self, why: String) -> Instant {
        self.metrics.failed();
        if why != self.said {
            warn!(config_map = %self.place.name, why, "decisions are not kept now; Weir goes on and tries again");
            self.said = why;
        }
        Instant::now() + PATIENCE
    }

    fn take(&mut self, News { decisions, memories: _, splits, pauses }: News) {
        let now = Timestamp::now();
        for (service, told) in decisions {
            match told.filter(|told| !told.is_empty()).map(|told| record::line(&service, now, &states(&service, &told)))
            {
                Some(Ok(line)) => drop(self.lines.insert(service, line)),
                // Our own types can always be written.
                Some(Err(_)) | None => drop(self.lines.remove(&service)),
            }
        }
        for (root, told) in splits {
            match told.map(|told| record::line_of_split(&root, now, &told)) {
                Some(Ok(line)) => drop(self.splits.insert(root, line)),
                Some(Err(_)) | None => drop(self.splits.remove(&root)),
            }
        }
        self.pauses = pauses.unwrap_or_else(|| std::mem::take(&mut self.pauses));
    }

    async fn write(&mut self, epoch: u64) -> Result<(), String> {
        let maps = self.place.maps();
        let mut map = maps.get(&self.place.name).await.map_err(|error| error.to_string())?;
        let annotations = map.metadata.annotations.get_or_insert_default();
        let by = annotations.get(EPOCH).and_then(|by| by.parse::<u64>().ok()).unwrap_or_default();
        if by > epoch {
            return Err(format!("it was written in epoch {by}, and this replica led in epoch {epoch}"));
        }
        annotations.insert(EPOCH.to_owned(), epoch.to_string());
        let data = map.binary_data.get_or_insert_default();
        let decisions = self.compressed(&self.lines, MAX_BYTES).map_err(|error| error.to_string())?;
        data.insert(DECISIONS.to_owned(), ByteString(decisions));
        let splits = self.compressed(&self.splits, MAX_SPLIT_BYTES).map_err(|error| error.to_string())?;
        data.insert(SPLITS.to_owned(), ByteString(splits));
        data.insert(
            PAUSES.to_owned(),
            ByteString(serde_json::to_vec(&self.pauses).map_err(|error| error.to_string())?),
        );
        // With the version that was read: whoever wrote meanwhile wins.
        let written = maps.replace(&self.place.name, &PostParams::default(), &map).await;
        written.map(drop).map_err(|error| error.to_string())
    }

    /// As many of the lines as there is room for.
    fn compressed(
        &self,
        lines: &BTreeMap<ServiceKey, String>,
        most: usize,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut services = lines.len();
        loop {
            let text = record::file(lines.values().take(services), Timestamp::now())?;
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text.as_bytes())?;
            let bytes = encoder.finish()?;
            if bytes.len() <= most || services == 0 {
                if services < lines.len() {
                    let (left_out, config_map) = (lines.len() - services, &self.place.name);
                    warn!(
                        config_map,
                        left_out,
                        "a ConfigMap cannot hold all decisions: after a restart of all replicas those left out begin anew"
                    );
                }
                return Ok(bytes);
            }
            services = services * 9 / 10 * most / bytes.len();
        }
    }
}

fn decompressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).take(MAX_READ).read_to_end(&mut text)?;
    Ok(text)
}
