//! Splits of gRPC calls: by their methods, and by how they end.

use std::time::Duration;

use testkit::{
    echo::{self, Echo},
    eventually,
    ports::Network,
};
use tonic::Code;

use super::{SMART, Shop, chi_square, smart, view, without_proxy};
use crate::first_calls::{client, words};

/// The Service `web` and its versions `v0` and `v1`, in this order.
async fn shop() -> (Shop, [Echo; 3]) {
    let (shop, network) = (Shop::start(0).await, Network::new());
    let echo = async |host, name: &str| {
        let echo = Echo::start((network.address(host), 0).into()).await;
        shop.put(&format!("{name}.yaml"), &without_proxy("shop", name, "grpc", echo.address));
        echo
    };
    let echoes = [echo(1, "web").await, echo(2, "v0").await, echo(3, "v1").await];
    (shop, echoes)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_are_shared_out_by_their_methods() {
    let (shop, _echoes) = shop().await;
    shop.put(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: web}]
  rules:
  - matches: [{method: {service: test.Echo, method: Words}}]
    backendRefs: [{name: v0, port: 80, weight: 3}, {name: v1, port: 80, weight: 1}]\n",
    );
    let (_weir, proxy) = shop.run().await;
    let way_out = shop.page.outbound(0);
    for _ in 0..200 {
        assert_eq!(words(way_out, "web", &["hello"]).await.unwrap(), "hello");
    }
    let [web, v0, v1] = ["web", "v0", "v1"].map(|name| format!("cluster.arm_shop_{name}_80.upstream_rq_total"));
    let seen = [proxy.stat(&v0).await, proxy.stat(&v1).await];
    assert!(seen.iter().sum::<u64>() == 200 && chi_square(&seen, &[3.0, 1.0]) < 15.14, "{seen:?}");
    assert_eq!(proxy.stat(&web).await, 0);
    // Gateway API: what no rule takes is refused, which gRPC calls unimplemented.
    let mut client = client(way_out, "web").await;
    let request = tonic::Request::new("1".to_owned());
    let path = ::http::uri::PathAndQuery::from_static(echo::MUTE);
    let refused = client.unary::<String, String, _>(request, path, tonic_prost::ProstCodec::default()).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_end_with_an_error_of_the_server_drain_a_version() {
    let (shop, [_web, _v0, v1]) = shop().await;
    let steer = "  steer: prefer lower errors, at most 20% per step, every 1s, judge after 20 requests\n";
    shop.put("split.yaml", &smart("{name: v0, weight: 50}, {name: v1, weight: 50}", steer));
    let (weir, proxy) = shop.run().await;
    let way_out = shop.page.outbound(0);
    let call = async || words(way_out, "web", &["hello"]).await.map_or_else(|status| status.code(), |_| Code::Ok);
    // That there is no such thing is the fault of the call.
    v1.ends(Code::NotFound);
    eventually(Duration::from_secs(60), "v1 is judged to be well", async || {
        assert!(matches!(call().await, Code::Ok | Code::NotFound));
        let arm = view(&weir).await?.policy(SMART)?["status"]["arms"][1].clone();
        let judged = arm["verdict"] == "Well" && arm["requests"].as_f64() > Some(40.0);
        if judged && arm["errorRatio"].as_f64() < Some(0.05) { Ok(()) } else { Err(arm.to_string()) }
    })
    .await;
    v1.ends(Code::Internal);
    eventually(Duration::from_secs(60), "v1 is drained", async || {
        assert!(matches!(call().await, Code::Ok | Code::Internal));
        let percent = view(&weir).await?.percent(SMART, "v1")?;
        if percent == 3.0 { Ok(()) } else { Err(percent.to_string()) }
    })
    .await;
    assert_eq!(proxy.stat("cluster.arm_shop_v1_80.upstream_rq_5xx").await, 0, "all of it under HTTP 200");
}
