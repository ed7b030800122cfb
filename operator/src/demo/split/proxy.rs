//! What the caller's Envoy holds, as its admin page says it.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde_json::Value;

use super::{ARMS, Each};
use crate::demo::{cast::NAMESPACE, get};

const PATIENCE: Duration = Duration::from_secs(5);

/// How it shares out the requests for the service, in percent. Absent: it has not been told.
pub(super) async fn shares(admin: SocketAddr) -> anyhow::Result<Option<Each<f64>>> {
    Ok(find(&dump(admin, "dynamic_route_configs").await?))
}

/// Its listeners, with the times at which they came.
pub(super) async fn listeners(admin: SocketAddr) -> anyhow::Result<Value> {
    dump(admin, "dynamic_listeners").await
}

async fn dump(admin: SocketAddr, resource: &str) -> anyhow::Result<Value> {
    let (status, text) = get(admin, &format!("/config_dump?resource={resource}"), PATIENCE).await?;
    ensure!(status == 200, "Envoy's admin page answers {status} for its {resource}");
    Ok(serde_json::from_str(&text)?)
}

/// The first weights that are those of all arms.
fn find(value: &Value) -> Option<Each<f64>> {
    match value {
        Value::Object(fields) => fields
            .get("weighted_clusters")
            .and_then(|weighted| of_arms(weighted["clusters"].as_array()?))
            .or_else(|| fields.values().find_map(find)),
        Value::Array(items) => items.iter().find_map(find),
        _ => None,
    }
}

fn of_arms(clusters: &[Value]) -> Option<Each<f64>> {
    let weight = |cluster: &Value| cluster["weight"].as_f64().unwrap_or(0.0);
    let sum: f64 = clusters.iter().map(weight).sum();
    let mut shares = Each::default();
    for (share, arm) in shares.iter_mut().zip(ARMS) {
        let part = format!("/{NAMESPACE}/{arm}/");
        let cluster = clusters.iter().find(|it| it["name"].as_str().is_some_and(|name| name.contains(&part)))?;
        *share = 100.0 * weight(cluster) / sum;
    }
    (sum > 0.0).then_some(shares)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::find;

    #[test]
    fn weights_of_all_arms_are_found_wherever_they_are() {
        let cluster =
            |arm: &str, weight: u32| json!({"name": format!("out/demo/shop/shop-0/demo/{arm}/80"), "weight": weight});
        let arms = json!([cluster("reviews-v1", 3000), cluster("reviews-v3", 1000), cluster("reviews-v2", 6000)]);
        let dump = |arms| json!({"configs": [{"route_config": {"virtual_hosts": [{"routes": [{"route": {"weighted_clusters": {"clusters": arms}}}]}]}}]});
        assert_eq!(find(&dump(arms)), Some([30.0, 60.0, 10.0]));
        assert_eq!(find(&dump(json!([cluster("reviews-v1", 1)]))), None);
        assert_eq!(find(&json!({})), None);
    }
}
