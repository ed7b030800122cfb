//! Objects on the API server: a mesh, and changes of it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use testkit::eventually;

const NAMESPACES: usize = 10;
/// Requests on their way at a time.
const WIDTH: usize = 16;

/// Where a service stands.
pub(super) fn namespace(service: usize) -> String {
    format!("mesh-{}", service % NAMESPACES)
}

/// Writes services with pods and slices, and limiters for the first of them.
pub(super) async fn write(client: Client, services: usize, endpoints: usize, policies: usize) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    for number in 0..NAMESPACES {
        let object = serde_json::from_value(json!({"metadata": {"name": namespace(number)}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        let accounts =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), &namespace(number));
        eventually(Duration::from_secs(30), "the namespace has its service account", async || {
            accounts.get("default").await.map_err(|error| error.to_string())
        })
        .await;
    }
    futures::stream::iter((0..services).map(|number| service(client.clone(), number, endpoints)))
        .buffer_unordered(WIDTH)
        .try_collect::<Vec<()>>()
        .await?;
    futures::stream::iter((0..policies).map(|number| create(client.clone(), number, limiter(number))))
        .buffer_unordered(WIDTH)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

async fn service(client: Client, number: usize, endpoints: usize) -> anyhow::Result<()> {
    let name = format!("s{number}");
    let object: Service = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}}, "spec": {"ports": [{"name": "http", "port": 80}]},
    }))?;
    create(client.clone(), number, object).await?;
    for pod in 0..endpoints {
        let object: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("{name}-{pod}"), "labels": {"app": name, "pod-template-hash": "5d8f7c9b4"},
                "annotations": {"inbound.weir.dev/8080": "127.0.0.1:9000"}},
            "spec": {"containers": [
                {"name": "app", "image": "app:1", "resources": {"limits": {"cpu": "1", "memory": "512Mi"}}},
                {"name": "envoy", "image": "envoy:1"},
            ]},
        }))?;
        create(client.clone(), number, object).await?;
    }
    create(client, number, slice(number, endpoints)?).await
}

fn slice(number: usize, endpoints: usize) -> anyhow::Result<EndpointSlice> {
    let name = format!("s{number}");
    let endpoint = |pod: usize| {
        let place = number * endpoints + pod;
        let address = format!("10.{}.{}.{}", 140 + place / 62500, place / 250 % 250, place % 250 + 1);
        json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": format!("{name}-{pod}")}})
    };
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<Value>>(),
    }))?)
}

fn limiter(number: usize) -> crds::SmartLimiter {
    let spec = json!({
        "targetRefs": [{"kind": "Service", "name": format!("s{number}")}],
        "rules": [
            {"name": "shed", "when": "inflight > 100 for 10s", "limit": "30 requests per second across all pods"},
            {"name": "all", "limit": "1000 requests per second across all pods"},
        ],
    });
    crds::SmartLimiter::new(&format!("s{number}"), serde_json::from_value(spec).expect("a limiter of ours"))
}

async fn create<K>(client: Client, service: usize, object: K) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    Api::<K>::namespaced(client, &namespace(service)).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Turns the readiness of endpoints of the first services, `a_second` times a second for `time`; how many.
pub(super) async fn churn(client: Client, time: Duration, a_second: u32) -> anyhow::Result<u32> {
    let mut beat = tokio::time::interval(Duration::from_secs(1) / a_second);
    let changes = a_second * u32::try_from(time.as_secs())?;
    let mut under_way = futures::stream::FuturesUnordered::new();
    for change in 0..changes {
        beat.tick().await;
        let service = usize::try_from(change % a_second)?;
        let ready = change / a_second % 2 == 1;
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), &namespace(service));
        under_way.push(async move {
            let patch = json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]);
            let patch = Patch::<EndpointSlice>::Json(serde_json::from_value(patch)?);
            slices.patch(&format!("s{service}-1"), &PatchParams::default(), &patch).await?;
            anyhow::Ok(())
        });
        while under_way.len() > WIDTH {
            under_way.next().await.transpose()?;
        }
    }
    under_way.try_collect::<Vec<()>>().await?;
    Ok(changes)
}
