//! Rules that exclude each other: two that steer the same requests of one target would push the limit to and fro.

use super::{Action, Policy, PolicyKey, RequestMatch, Rule};

/// A rule that may not stand beside another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The object that is not accepted.
    pub policy: PolicyKey,
    /// Its rule.
    pub rule: String,
    /// The object that stays.
    pub with: PolicyKey,
    /// Its rule.
    pub with_rule: String,
}

/// The conflicts among policies of one target: `adapt` rules for the same requests, enforced at the same place. The older object stays; of two as old,
/// or of unknown age, the one whose key comes first.
#[must_use]
pub fn conflicts<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Vec<Conflict> {
    let mut policies: Vec<&Policy> = policies.into_iter().collect();
    policies.sort_by_key(|policy| (policy.created.is_none(), policy.created, &policy.key));
    let mut standing: Vec<(&Policy, &Rule)> = Vec::new();
    let mut conflicts = Vec::new();
    for policy in policies {
        let steering = || policy.rules.iter().filter(|rule| matches!(rule.action, Action::Adapt(_)));
        let before = conflicts.len();
        conflicts.extend(steering().filter_map(|rule| {
            let conflicts =
                |(with, other): &&(&Policy, &Rule)| with.enforce_at == policy.enforce_at && same_requests(rule, other);
            let (with, with_rule) = standing.iter().find(conflicts)?;
            let (policy, with) = (policy.key.clone(), with.key.clone());
            Some(Conflict { policy, rule: rule.name.clone(), with, with_rule: with_rule.name.clone() })
        }));
        // An object that is not accepted stands in nobody's way.
        if conflicts.len() == before {
            standing.extend(steering().map(|rule| (policy, rule)));
        }
    }
    conflicts
}

/// Whether two rules say that they are for the same requests, in whatever order.
pub(super) fn same_requests(one: &Rule, other: &Rule) -> bool {
    let sorted = |rule: &Rule| -> Vec<RequestMatch> {
        let mut matches = rule.matches.clone();
        matches.sort();
        matches.dedup();
        matches
    };
    sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::weir;

    fn policy(name: &str, created: Option<&str>, rules: serde_json::Value) -> Policy {
        let object = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "SmartLimiter",
            "metadata": {"name": name, "namespace": "a", "creationTimestamp": created},
            "spec": {"targetRefs": [{"kind": "Service", "name": "reviews"}], "rules": rules},
        });
        let (policy, problems) = weir::policy(&serde_json::from_value(object).unwrap());
        assert_eq!(problems, []);
        policy.unwrap()
    }

    #[test]
    fn of_two_that_steer_the_same_requests_the_older_stays() {
        let adapt = "keep cpu below 70%, between 20 and 500 requests per second per pod";
        let steering = |path: Option<&str>| {
            let matches = path.map(|path| json!([{"path": {"type": "Exact", "value": path}}]));
            json!([{"name": "keep", "adapt": adapt, "matches": matches.unwrap_or_else(|| json!([]))}])
        };
        let fixed = json!([{"name": "keep", "limit": "30 requests per second per pod"}]);
        let policies = [
            policy("ageless", None, steering(None)),
            policy("young", Some("2026-03-01T00:00:00Z"), steering(None)),
            policy("old", Some("2026-01-01T00:00:00Z"), steering(None)),
            policy("other-path", Some("2026-02-01T00:00:00Z"), steering(Some("/a"))),
            policy("fixed", Some("2026-02-01T00:00:00Z"), fixed),
        ];
        let found: Vec<_> =
            conflicts(&policies).into_iter().map(|conflict| (conflict.policy.name, conflict.with.name)).collect();
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(found, [pair("young", "old"), pair("ageless", "old")]);
        assert_eq!(conflicts(&policies[..1]), []);
    }
}
