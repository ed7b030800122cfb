//! What the running Weir says of the split, to be shown and never to be judged by; tolerant, as the page may change.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::demo::{cast::NAMESPACE, get};

/// What is wrong with versions, or if nothing is, why the shares are what they are. Absent: it does not answer, or says nothing.
pub(super) async fn fetch(admin: SocketAddr, split: &str) -> Option<String> {
    let (status, text) = get(admin, "/status", Duration::from_secs(1)).await.ok()?;
    if status != 200 {
        return None;
    }
    parse(&serde_json::from_str(&text).ok()?, split)
}

fn parse(page: &Value, split: &str) -> Option<String> {
    let key = format!("smartsplits.weir.dev/{NAMESPACE}/{split}");
    let found = page.get("splits")?.as_array()?.iter().find(|found| found["key"].as_str() == Some(&key))?;
    let status = found.get("status").unwrap_or(found);
    let message = status["message"].as_str().or_else(|| status["why"].as_str());
    let verdict = |arm: &Value| -> Option<String> {
        let (service, words) = (arm["service"].as_str()?, arm["message"].as_str()?);
        let version = service.strip_prefix(split).map_or(service, |rest| rest.trim_start_matches('-'));
        Some(format!("{version}: {words}"))
    };
    let verdicts: Vec<String> = status["arms"].as_array().into_iter().flatten().filter_map(verdict).collect();
    if verdicts.is_empty() { message.map(str::to_owned) } else { Some(verdicts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn reads_the_words_and_bears_what_is_missing() {
        let why = |arms| json!({"why": "Steered", "message": "the shares follow", "arms": arms});
        let arms =
            json!([{"service": "reviews-v1", "verdict": "Well"}, {"service": "reviews-v3", "message": "it fails"}]);
        let status = why(arms);
        let mut flat = status.clone();
        flat["key"] = json!("smartsplits.weir.dev/demo/reviews");
        let nested = json!({"key": "smartsplits.weir.dev/demo/reviews", "status": status});
        for split in [flat, nested] {
            let words = parse(&json!({"splits": [{"key": "other"}, split]}), "reviews").unwrap();
            assert_eq!(words, "v3: it fails");
        }
        let mut well = why(json!([{"service": "reviews-v1", "verdict": "Well"}]));
        well["key"] = json!("smartsplits.weir.dev/demo/reviews");
        assert_eq!(parse(&json!({"splits": [well]}), "reviews").unwrap(), "the shares follow");
        let bare = json!({"splits": [{"key": "smartsplits.weir.dev/demo/reviews", "why": "Declared"}]});
        assert_eq!(parse(&bare, "reviews").unwrap(), "Declared");
        assert_eq!(parse(&json!({"splits": 3}), "reviews"), None);
        assert_eq!(parse(&json!({}), "reviews"), None);
    }
}
