//! `weir translate`: one stage of the pipeline, from files, offline. The golden tests print through the same function.

use std::{path::PathBuf, process::ExitCode};

use jiff::{SignedDuration, Timestamp};
use limiter::metric::Word;
use serde_json::{Value, json};

use super::{files, say};
use crate::{
    args::{Stage, TranslateArgs},
    build::Builder,
    index::Change,
    metrics::{Measure, PodSample, Source},
    status,
    translate::decide::qualified,
    xds::{print, proxies::Proxies, table::Table},
};

/// How long assumed metrics are supposed to have stood. Longer than any `for` that makes sense in a test or a question.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);
/// Samples of assumed metrics come this often.
const STEP: SignedDuration = SignedDuration::from_secs(1);

/// What files become, stage by stage.
#[derive(Debug)]
pub struct Staged {
    builder: Builder,
    proxies: Proxies,
    now: Timestamp,
}

/// Builds the files as `weir run` would, once, at the time `start`, with `metrics` (name and value) standing for ten minutes on
/// every pod.
///
/// # Errors
/// When a path cannot be read or a metric has a name that no policy uses.
pub fn staged(paths: &[PathBuf], metrics: &[(String, f64)], start: Timestamp) -> anyhow::Result<Staged> {
    let mut changes = Vec::new();
    for input in files::read(paths)? {
        let name = input.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match input.result {
            Ok(file) => {
                if !file.problems.is_empty() {
                    changes.push(Change::Source { origin: name.clone(), problems: file.problems });
                }
                changes.extend(file.objects.into_iter().map(|decoded| Change::Apply {
                    key: decoded.key,
                    origin: format!("{name}:{}", decoded.line),
                    object: decoded.object,
                }));
            }
            Err(problem) => changes.push(Change::Source { origin: name, problems: vec![problem] }),
        }
    }
    let mut builder = Builder::new(Table::new());
    builder.apply(changes, start);
    let mut now = start;
    if !metrics.is_empty() {
        let mut unused: Vec<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
        while now.duration_since(start) <= SETTLED {
            let samples = samples(&builder, metrics, now, &mut unused);
            builder.observe(samples, now);
            now += STEP;
        }
        if let Some(name) = unused.first() {
            anyhow::bail!("--metric {name}: no policy of these files looks at it");
        }
    }
    Ok(Staged { builder, proxies: Proxies::new(), now })
}

fn samples(builder: &Builder, metrics: &[(String, f64)], at: Timestamp, unused: &mut Vec<&str>) -> Vec<PodSample> {
    let mut samples = Vec::new();
    let index = builder.index();
    for view in index.service_keys().filter_map(|key| index.service(key)) {
        for policy in &view.policies {
            for metric in policy.metrics() {
                let Some((name, value)) = metrics.iter().find(|(name, _)| *name == metric.word.to_string()) else {
                    continue;
                };
                unused.retain(|unused| unused != name);
                if metric.word == Word::Pods {
                    continue; // counted, never measured
                }
                samples.extend(view.ready_pods().map(|pod| PodSample {
                    service: view.key.clone().into(),
                    pod: Some(pod.to_owned()),
                    measure: Measure::Number(qualified(policy, &metric).word, *value),
                    at,
                    fresh_for_ms: 3000,
                    source: Source::Scrape,
                }));
            }
        }
    }
    samples
}

impl Staged {
    /// One stage as JSON, sorted.
    ///
    /// # Errors
    /// When a resource cannot be printed, which is a bug of Weir's.
    pub fn print(&self, stage: Stage) -> anyhow::Result<Value> {
        let index = self.builder.index();
        let built = index.service_keys().filter_map(|key| Some((key, self.builder.built(key)?)));
        Ok(match stage {
            Stage::Intent => {
                let mut all = serde_json::Map::new();
                for (key, built) in built {
                    all.insert(key.to_string(), serde_json::to_value(&*built.intent)?);
                }
                Value::Object(all)
            }
            Stage::Resources => {
                let mut all = Vec::new();
                for resource in built.flat_map(|(_, built)| &built.resources) {
                    all.push(json!({
                        "name": *resource.name,
                        "version": *resource.version,
                        "resource": print::json(resource)?,
                    }));
                }
                Value::Array(all)
            }
            Stage::Status => {
                serde_json::to_value(status::status(&self.builder, &self.proxies, &Default::default(), self.now))?
            }
        })
    }
}

pub(super) fn run(args: &TranslateArgs) -> anyhow::Result<ExitCode> {
    let staged = staged(&args.paths, &args.metrics, Timestamp::now())?;
    say!("{}", serde_saphyr::to_string(&staged.print(args.stage)?)?.trim_end());
    Ok(ExitCode::SUCCESS)
}
