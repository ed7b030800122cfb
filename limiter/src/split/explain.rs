//! What a split means, in plain English.

use super::{
    Split, Sticky,
    shares::{Bounds, TOTAL, apportion_within},
    steer::{Law, Ramp},
};
use crate::{language::write_duration, policy::Mode};

/// The split in plain English, a line for each thing that it says.
#[must_use]
pub fn explain(split: &Split) -> String {
    let mut lines = vec![format!("{}: requests for the Service {} are shared out.", split.key, split.root)];
    if !split.groups.is_empty() {
        lines.push(format!(
            "- Only those that match the HTTPRouteGroup {}; all others stay with {}.",
            split.groups.join(" or "),
            split.root
        ));
    }
    let weights: Vec<u64> = split.arms.iter().map(|arm| arm.weight).collect();
    let bounds: Vec<Bounds> = split.arms.iter().map(|arm| arm.bounds).collect();
    match apportion_within(&weights, &bounds) {
        None => lines.push(format!("- Nobody has any weight: all of them stay with {}.", split.root)),
        Some(shares) => {
            for (arm, share) in split.arms.iter().zip(shares) {
                let mut line = format!("- {} gets {}", arm.service, percent(share));
                let Bounds { least, most } = arm.bounds;
                if least > 0 {
                    line.push_str(&format!(", never less than {}", percent(least)));
                }
                if most < TOTAL {
                    line.push_str(&format!(", never more than {}", percent(most)));
                }
                if let Some(capacity) = arm.capacity.filter(|_| split.steer.is_some()) {
                    line.push_str(&format!(", nor more than {capacity} requests a second for each ready endpoint"));
                }
                lines.push(line + ".");
            }
        }
    }
    lines.push("- Who has no ready endpoint gets nothing; the others have its part.".to_owned());
    if let Some(law) = &split.steer {
        lines.extend(steered(split, law));
    }
    match &split.sticky {
        None => {}
        Some(Sticky::Header(name)) => lines.push(format!("- Requests with the same header {name} stay together.")),
        Some(Sticky::Cookie(name)) => lines.push(format!("- Users stay with a backend by their cookie {name}.")),
        Some(Sticky::ClientIp) => lines.push("- Requests from one address stay together.".to_owned()),
    }
    lines.join("\n")
}

fn steered(split: &Split, law: &Law) -> Vec<String> {
    let time = |of: jiff::SignedDuration| write_duration(of.unsigned_abs());
    let objective = format!("{} %", trimmed(law.objective * 100.0));
    let mut lines = vec![format!(
        "- Every {} each is judged by its errors{}, once {} requests were seen.",
        time(law.every),
        if law.by_latency { format!(" and its p{} latency", law.percentile) } else { String::new() },
        law.fewest
    )];
    if let Some(Ramp { arm, to }) = law.ramp {
        let name = split.arms.get(arm).map_or("it", |arm| arm.service.as_str());
        lines.push(format!(
            "- {name} grows to {}, by at most {} in a step, while no more than {objective} fail and not more than of the others; else it \
             falls back, and stays there until this object is edited.",
            percent(to),
            percent(law.up)
        ));
    } else {
        lines.push(format!(
            "- Who fails more than {objective}, or more than the best of them, falls to {} by at most {} in a step; who does well gets at most \
             {} more in a step.",
            percent(law.probe),
            percent(law.down),
            percent(law.up)
        ));
    }
    lines.push(format!(
        "- When all fail alike nothing moves. Without metrics the shares hold for {}, then go back to the declared ones.",
        time(law.hold)
    ));
    if split.mode == Mode::Shadow {
        lines.push("- Nothing of that is carried out: mode is Shadow, and the status says what would be.".to_owned());
    }
    lines
}

/// Shares as people say them: `12.5 %`.
fn percent(shares: u32) -> String {
    format!("{} %", trimmed(f64::from(shares) / f64::from(TOTAL) * 100.0))
}

/// With two digits at most, and none that say nothing.
#[must_use]
pub fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
