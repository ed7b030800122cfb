//! `SmartSplit` of `weir.dev/v1alpha1` to [`Split`].
//!
//! Checks everything that the API server would, because files have none.

use std::collections::BTreeSet;

use crds::smart_split::{self as api, SmartSplit};
use jiff::SignedDuration;

use super::{
    Arm, Kind, Split, SplitKey, Sticky,
    shares::{Bounds, TOTAL},
    steer::{Law, Ramp},
};
use crate::{
    language::{self, SentenceError, Steer},
    policy::{
        Mode, is_dns_label,
        problems::{self, Problems},
    },
    problem::Problem,
};

/// The most backends of one split.
pub const MOST_ARMS: usize = 128;
/// The largest weight, as Gateway API has it.
const LARGEST_WEIGHT: i64 = 1_000_000;

/// What the object describes, as far as it can be understood, and everything that is wrong with it. Any problem means that the object is
/// not accepted; a split beside problems serves explanations only.
#[must_use]
pub fn split(object: &SmartSplit) -> (Option<Split>, Vec<Problem>) {
    let mut problems = Problems::default();
    let api::SmartSplitSpec { target_refs, backend_refs, steer, mode, sticky } = &object.spec;
    let key = problems::names(&object.metadata, &mut problems);
    // Read every field before giving up, so that all mistakes are reported at once.
    let root = root(target_refs, &mut problems);
    let arms = arms(backend_refs, &mut problems);
    let steer = steer.as_ref().map(|text| law(text, arms.as_deref().unwrap_or_default(), &mut problems));
    let sticky = sticky.as_ref().map(|by| self::sticky(by, &mut problems));
    let split = || {
        let (namespace, name) = key?;
        Some(Split {
            key: SplitKey { kind: Kind::SmartSplit, namespace, name },
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            root: root?,
            groups: Vec::new(),
            arms: arms?,
            steer: match steer {
                None => None,
                Some(law) => Some(law?),
            },
            mode: match mode {
                crds::smart_limiter::Mode::Enforce => Mode::Enforce,
                crds::smart_limiter::Mode::Shadow => Mode::Shadow,
            },
            sticky: match sticky {
                None => None,
                Some(by) => Some(by?),
            },
        })
    };
    (split(), problems.into_vec())
}

fn root(refs: &[crds::smart_limiter::TargetRef], problems: &mut Problems) -> Option<String> {
    const FIELD: &str = "spec.targetRefs";
    let [only] = refs else {
        let message = format!("a split is of exactly one Service, found {}", refs.len());
        problems.add(FIELD, message, "write an object for each Service");
        return None;
    };
    if only.kind != crds::smart_limiter::TargetKind::Service || !only.group.is_empty() {
        problems.add(format!("{FIELD}[0].kind"), "requests for a Service are shared out", "write `kind: Service`");
        return None;
    }
    if only.section_name.is_some() {
        let help = "leave it out: all ports of the Service are shared out alike";
        problems.not_yet(format!("{FIELD}[0].sectionName"), "a port of a Service cannot be named", help);
    }
    is_name(&only.name, &format!("{FIELD}[0].name"), problems).then(|| only.name.clone())
}

fn is_name(name: &str, field: &str, problems: &mut Problems) -> bool {
    if !is_dns_label(name) {
        problems.add(field, format!("{name:?} is no name of a Service"), "use lower-case letters, digits and `-`");
    }
    is_dns_label(name)
}

fn arms(list: &[api::SplitBackend], problems: &mut Problems) -> Option<Vec<Arm>> {
    const FIELD: &str = "spec.backendRefs";
    if list.is_empty() || list.len() > MOST_ARMS {
        problems.invalid(FIELD, format!("expected 1 to {MOST_ARMS} backends, found {}", list.len()));
        return None;
    }
    let mut names = BTreeSet::new();
    let mut arms = Vec::new();
    for (position, backend) in list.iter().enumerate() {
        let field = format!("{FIELD}[{position}]");
        if !names.insert(&backend.name) {
            let message = format!("{:?} is named twice", backend.name);
            problems.add(format!("{field}.name"), message, "add the weights up in one entry");
            continue;
        }
        arms.extend(arm(backend, &field, problems));
    }
    if arms.len() < list.len() {
        return None;
    }
    if arms.iter().all(|arm| arm.weight == 0) {
        problems.add(FIELD, "all weights are 0, so nobody would get a request", "give one of them a weight");
    }
    let sum = |one: fn(&Bounds) -> u32| arms.iter().map(|arm| u64::from(one(&arm.bounds))).sum::<u64>();
    if sum(|bounds| bounds.least) > u64::from(TOTAL) {
        problems.add(FIELD, "the minPercent of all add up to more than 100", "lower one of them");
    }
    if sum(|bounds| bounds.most) < u64::from(TOTAL) {
        let help = "raise one of them, or leave it out";
        problems.add(FIELD, "the maxPercent of all add up to less than 100, so some requests could go nowhere", help);
    }
    Some(arms)
}

fn arm(backend: &api::SplitBackend, field: &str, problems: &mut Problems) -> Option<Arm> {
    let api::SplitBackend { name, port, weight, min_percent, max_percent, requests_per_endpoint } = backend;
    let mut sound = is_name(name, &format!("{field}.name"), problems);
    let of_port = port.map(|port| u16::try_from(port).ok().filter(|port| *port > 0));
    if of_port == Some(None) {
        let message = format!("expected a port from 1 to 65535, found {}", port.unwrap_or_default());
        problems.add(format!("{field}.port"), message, "write the Service's port, for example 80");
        sound = false;
    }
    if !(0..=LARGEST_WEIGHT).contains(weight) {
        let message = format!("a weight is from 0 to {LARGEST_WEIGHT}, found {weight}");
        problems.add(
            format!("{field}.weight"),
            message,
            "weights are relative: 1 and 3 are a quarter and three quarters",
        );
        sound = false;
    }
    let mut percent = |text: &str, value: Option<f64>, without: u32| match value {
        None => Some(without),
        Some(value) => {
            let shares = (value * 100.0).round();
            let exact = (value * 100.0 - shares).abs() < 1e-6;
            if !(0.0..=100.0).contains(&value) || !exact {
                let message = format!("expected a percentage from 0 to 100, to a hundredth, found {value}");
                problems.add(format!("{field}.{text}"), message, "write for example `2.5`");
                return None;
            }
            Some(shares as u32)
        }
    };
    let (least, most) = (percent("minPercent", *min_percent, 0), percent("maxPercent", *max_percent, TOTAL));
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        problems.add(format!("{field}.minPercent"), "it is more than maxPercent", "swap them");
        sound = false;
    }
    let capacity =
        requests_per_endpoint.map(|rate| u32::try_from(rate).ok().filter(|rate| (1..=1_000_000).contains(rate)));
    if capacity == Some(None) {
        let message = "an endpoint serves from 1 to 1000000 requests a second";
        problems.add(format!("{field}.requestsPerEndpoint"), message, "leave it out where it is not known");
        sound = false;
    }
    Some(Arm {
        service: name.clone(),
        port: of_port.flatten(),
        weight: u64::try_from(*weight).ok()?,
        bounds: Bounds { least: least?, most: most? },
        capacity: capacity.flatten(),
    })
    .filter(|_| sound)
}

fn sticky(by: &api::StickyBy, problems: &mut Problems) -> Option<Sticky> {
    const FIELD: &str = "spec.sticky.name";
    let api::StickyBy { kind, name } = by;
    match (kind, name) {
        (api::StickyType::ClientIp, None) => Some(Sticky::ClientIp),
        (api::StickyType::ClientIp, Some(_)) => {
            problems.add(FIELD, "an address has no name", "leave it out");
            None
        }
        (_, None) => {
            problems.add(
                FIELD,
                "which header or cookie tells users apart is missing",
                "write for example `name: x-user-id`",
            );
            None
        }
        (kind, Some(name)) => {
            if !language::is_header_name(name) || name.len() > 256 {
                problems.add(
                    FIELD,
                    format!("{name:?} is no name of a header or a cookie"),
                    "use letters, digits and `-`",
                );
                return None;
            }
            Some(match kind {
                api::StickyType::Cookie => Sticky::Cookie(name.clone()),
                _ => Sticky::Header(name.to_ascii_lowercase()),
            })
        }
    }
}

fn law(text: &str, arms: &[Arm], problems: &mut Problems) -> Option<Law> {
    const FIELD: &str = "spec.steer";
    let Steer { ramp, to, percentile, step, every, objective, fewest, hold } =
        problems.sentence(language::parse_steer(text), FIELD, text)?;
    let default = Law::default();
    let ramp = match ramp {
        None => None,
        Some((name, start, end)) => {
            let Some(arm) = arms.iter().position(|arm| arm.service == name) else {
                let nearest = language::nearest(&name, arms.iter().map(|arm| arm.service.as_str()));
                let help = nearest.map(|nearest| format!("did you mean `{nearest}`?"));
                let message = format!("none of the backends is called `{name}`");
                problems.sentence::<()>(Err(SentenceError { message, help, start, end }), FIELD, text);
                return None;
            };
            let to = to.map_or(TOTAL, shares).min(arms[arm].bounds.most);
            Some(Ramp { arm, to })
        }
    };
    let up = step.map_or(default.up, shares);
    let time = |duration: std::time::Duration| SignedDuration::try_from(duration).ok();
    let every = every.and_then(time).unwrap_or(default.every);
    Some(Law {
        every,
        objective: objective.unwrap_or(default.objective),
        fewest: fewest.unwrap_or(default.fewest),
        by_latency: percentile.is_some(),
        percentile: percentile.unwrap_or(default.percentile),
        up,
        down: default.down.max(up),
        // What is seen once in a step is still there at the next.
        expiry: default.expiry.max(every.saturating_mul(3)),
        half_life: default.half_life.max(every.saturating_mul(3)),
        hold: hold.and_then(time).unwrap_or(default.hold),
        ramp,
        ..default
    })
}

/// A part of all as whole shares, at least one.
fn shares(part: f64) -> u32 {
    ((part * f64::from(TOTAL)).round() as u32).clamp(1, TOTAL)
}

#[cfg(test)]
mod tests;
