//! What the running Weir says of the demo's rule; tolerant, so that the view outlives changes of the page.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::cast::{Cast, NAMESPACE};

/// The rule as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RuleView {
    /// `Idle`, `Pending`, `Limiting` or `Releasing`.
    pub phase: String,
    /// The limit in force, in requests per second over all pods.
    pub per_second: Option<f64>,
    /// How it is divided.
    pub shares: Option<String>,
    /// One sentence.
    pub message: Option<String>,
    /// Proxies that carry it, and all of them.
    pub proxies: Option<(u64, u64)>,
}

/// Asks Weir. Absent: it does not answer, or has no such policy.
pub(super) async fn fetch(admin: SocketAddr, cast: &Cast) -> Option<RuleView> {
    let (status, text) = super::get(admin, "/status", Duration::from_secs(1)).await.ok()?;
    if status != 200 {
        return None;
    }
    parse(&serde_json::from_str(&text).ok()?, cast.service)
}

fn parse(page: &Value, service: &str) -> Option<RuleView> {
    let key = format!("smartlimiters.weir.dev/{NAMESPACE}/{service}");
    let policy = page.get("policies")?.as_array()?.iter().find(|policy| policy["key"].as_str() == Some(&key))?;
    // The policy's status may stand in a field of its own, as in the object, or beside the key.
    let status = policy.get("status").unwrap_or(policy);
    let rule = status.get("rules").and_then(|rules| rules.get(0)).unwrap_or(&Value::Null);
    let text = |field: &str| rule[field].as_str().map(str::to_owned);
    let proxies = &status["proxies"];
    Some(RuleView {
        phase: text("phase").unwrap_or_default(),
        per_second: rule["perSecond"].as_f64().filter(|rate| rate.is_finite()),
        shares: text("shares"),
        message: text("message"),
        proxies: proxies["programmed"].as_u64().zip(proxies["total"].as_u64()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{RuleView, parse};

    #[test]
    fn reads_the_rule_and_bears_what_is_missing() {
        let rule = json!({"name": "shed-when-hot", "phase": "Limiting", "perSecond": 105.0, "shares": "35 x3"});
        let inner = json!({"proxies": {"total": 3, "programmed": 2}, "rules": [rule]});
        let mut flat = inner.clone();
        flat["key"] = json!("smartlimiters.weir.dev/demo/burner");
        let nested = json!({"key": "smartlimiters.weir.dev/demo/burner", "status": inner});
        for policy in [flat, nested] {
            let view = parse(&json!({"policies": [{"key": "other"}, policy]}), "burner").unwrap();
            assert_eq!((view.phase.as_str(), view.per_second), ("Limiting", Some(105.0)));
            assert_eq!((view.shares.as_deref(), view.proxies), (Some("35 x3"), Some((2, 3))));
        }
        let bare = json!({"policies": [{"key": "smartlimiters.weir.dev/demo/burner"}]});
        assert_eq!(parse(&bare, "burner"), Some(RuleView::default()));
        assert_eq!(parse(&json!({"policies": 3}), "burner"), None);
    }
}
