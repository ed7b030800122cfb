//! What the running Weir says of the split, to be shown and never to be judged by; tolerant, as the page may change.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::demo::{cast::NAMESPACE, get};

/// Why the shares are what they are, in a sentence, and what is thought of each version. Absent: it does not answer, or says nothing.
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
        let (service, verdict) = (arm["service"].as_str()?, arm["verdict"].as_str()?);
        let version = service.strip_prefix(split).map_or(service, |rest| rest.trim_start_matches('-'));
        (verdict != "Well").then(|| format!("{version} {verdict}"))
    };
    let verdicts: Vec<String> = status["arms"].as_array().into_iter().flatten().filter_map(verdict).collect();
    let words: Vec<String> = message.map(str::to_owned).into_iter().chain(verdicts).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn reads_the_words_and_bears_what_is_missing() {
        let arms = json!([{"service": "reviews-v1", "verdict": "Well"}, {"service": "reviews-v3", "verdict": "WorseThanPeer"}]);
        let status = json!({"why": "Steered", "message": "v3 fails more", "arms": arms});
        let mut flat = status.clone();
        flat["key"] = json!("smartsplits.weir.dev/demo/reviews");
        let nested = json!({"key": "smartsplits.weir.dev/demo/reviews", "status": status});
        for split in [flat, nested] {
            let words = parse(&json!({"splits": [{"key": "other"}, split]}), "reviews").unwrap();
            assert_eq!(words, "v3 fails more; v3 WorseThanPeer");
        }
        let bare = json!({"splits": [{"key": "smartsplits.weir.dev/demo/reviews", "why": "Declared"}]});
        assert_eq!(parse(&bare, "reviews").unwrap(), "Declared");
        assert_eq!(parse(&json!({"splits": 3}), "reviews"), None);
        assert_eq!(parse(&json!({}), "reviews"), None);
    }
}
