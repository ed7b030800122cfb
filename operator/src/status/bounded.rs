//! How large a status may be on an API server.
//!
//! Pure. etcd takes objects of 1.5 MiB, the spec among it, and a selector may fit hundreds of Services with 32 rules on each.

use crds::{SmartLimiterStatus, status::RuleStatus};

/// All entries of `rules`, as JSON, in bytes. They are written again whenever one of them moves.
const LARGEST: usize = 256 << 10;
/// A condition's message in bytes; Kubernetes' own conditions allow as many.
const LONGEST_MESSAGE: usize = 32 << 10;

/// Leaves out what is too much, last the rules that limit now, and says how many.
pub(super) fn bound(status: &mut SmartLimiterStatus) {
    for condition in &mut status.conditions {
        shorten(&mut condition.message, LONGEST_MESSAGE);
    }
    if status.rules.iter().map(size).sum::<usize>() <= LARGEST {
        return;
    }
    status.rules.sort_by_key(|rule| rule.limit.is_none());
    let mut sum = 0;
    let fits = status.rules.iter().take_while(|rule| {
        sum += size(rule);
        sum <= LARGEST
    });
    let fits = fits.count();
    status.rules_left_out = i64::try_from(status.rules.len() - fits).ok();
    status.rules.truncate(fits);
}

fn size(rule: &RuleStatus) -> usize {
    serde_json::to_vec(rule).map_or(0, |text| text.len())
}

/// Cuts a text that is longer than so many bytes, with a mark at its end.
pub(super) fn shorten(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use crds::status::RulePhase;

    use super::*;

    fn status(rules: usize) -> SmartLimiterStatus {
        let rule = |place: usize| RuleStatus {
            name: format!("r{place}"),
            target: "a".to_owned(),
            phase: RulePhase::Idle,
            limit: (place % 100 == 99).then(|| "30 requests per second per pod".to_owned()),
            per_second: None,
            shares: None,
            classes: Vec::new(),
            excess: None,
            in_flight: None,
            observed: Vec::new(),
            since: None,
            message: Some("x".repeat(1000)),
        };
        SmartLimiterStatus { rules: (0..rules).map(rule).collect(), ..SmartLimiterStatus::default() }
    }

    #[test]
    fn what_is_too_much_is_left_out_and_counted_and_what_limits_stays() {
        let mut bounded = status(9600);
        bound(&mut bounded);
        let size = serde_json::to_vec(&bounded).unwrap().len();
        assert!((200 << 10..300 << 10).contains(&size), "{size}");
        assert_eq!(bounded.rules.len() as i64 + bounded.rules_left_out.unwrap(), 9600);
        assert!(bounded.rules[..96].iter().all(|rule| rule.limit.is_some()));
        assert_eq!((&*bounded.rules[0].name, &*bounded.rules[96].name), ("r99", "r0"));
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let mut bounded = status(200);
        bound(&mut bounded);
        assert_eq!(bounded, status(200));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let mut text = "añb".repeat(3);
        shorten(&mut text, 12);
        assert_eq!(text, "añbañbañb");
        shorten(&mut text, 9);
        assert_eq!(text, "añba…");
    }
}
