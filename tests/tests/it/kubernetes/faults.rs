//! The kit's servers end, hang and come back as it says.

use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api,
    api::{PostParams, WatchEvent, WatchParams},
};
use testkit::{
    cluster::{Cluster, Server},
    eventually,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const HANGS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn servers_end_and_hang_and_come_back_with_what_they_knew() {
    let cluster = Cluster::start().await;
    let namespaces = Api::<Namespace>::all(cluster.client().await);
    let first = cluster.namespace("kept").await;
    let mark = cluster.mark();

    cluster.stop(Server::Etcd);
    let mut other = Namespace::default();
    other.metadata.name = Some("late".to_owned());
    let creation = PostParams::default();
    let late = namespaces.create(&creation, &other);
    pin_mut!(late);
    assert!(timeout(HANGS, &mut late).await.is_err(), "nothing is stored while etcd is suspended");
    cluster.cont(Server::Etcd);
    timeout(SOON, late).await.expect("it goes on where it was").unwrap();

    cluster.kill(Server::ApiServer);
    assert!(namespaces.get(&first).await.is_err(), "nobody answers");
    cluster.restart(Server::ApiServer).await;
    namespaces.get("late").await.unwrap();

    cluster.restart(Server::Etcd).await;
    namespaces.get(&first).await.unwrap();

    cluster.kill(Server::ControllerManager);
    cluster.kubectl(&["create", "namespace", "alone"]).await.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client().await, "alone");
    assert!(accounts.get_opt("default").await.unwrap().is_none(), "nobody makes one");
    cluster.restart(Server::ControllerManager).await;
    eventually(SOON, "the account is made", async || accounts.get("default").await.map_err(|error| error.to_string()))
        .await;

    // The audit log has it all, over the restarts.
    let made: Vec<_> = cluster
        .audit(mark)
        .into_iter()
        .filter(|entry| entry.verb == "create" && entry.resource == "namespaces" && entry.code == 201)
        .map(|entry| entry.name)
        .collect();
    assert_eq!(made, ["late", "alone"]);
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_answered_gone() {
    let cluster = Cluster::start().await;
    let namespaces = Api::<Namespace>::all(cluster.client().await);
    let version = namespaces.get("default").await.unwrap().metadata.resource_version.unwrap();
    cluster.namespace("newer").await;
    cluster.forget_history().await;
    cluster.restart(Server::ApiServer).await;
    let watch = namespaces.watch(&WatchParams::default(), &version).await.unwrap();
    pin_mut!(watch);
    match timeout(SOON, watch.next()).await.expect("an answer").unwrap() {
        Ok(WatchEvent::Error(status)) => assert_eq!(status.code, 410, "{status:?}"),
        other => panic!("{other:?}"),
    }
}
