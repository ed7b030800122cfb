//! Tells proxies whom to trust: the authorities of Weir's certificate, in ConfigMaps that their pods mount.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Held;
use crate::watch::kubernetes::cause;

/// How often the ConfigMaps are looked at: somebody may have damaged one.
const LOOK: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
const KEY: &str = "ca.crt";

/// A ConfigMap, which must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Keeps the ConfigMaps at what is to be trusted, for ever.
pub(super) async fn keep(client: Client, places: Vec<Place>, held: Held) {
    let mut changes = held.changes();
    let mut said = vec![String::new(); places.len()];
    loop {
        let authorities = changes.borrow_and_update().as_ref().map(|held| held.pem.authorities.clone());
        let mut pause = LOOK;
        for (place, said) in places.iter().zip(&mut said) {
            let Some(authorities) = authorities.as_deref().filter(|authorities| !authorities.is_empty()) else {
                continue;
            };
            let trouble = put(&client, place, authorities).await.err().map(|error| cause(&error)).unwrap_or_default();
            if !trouble.is_empty() {
                pause = AGAIN;
                if trouble != *said {
                    let Place { namespace, name } = place;
                    let mend = "the chart makes it, empty, and lets Weir get and patch it";
                    warn!(namespace, name, trouble, mend, "a ConfigMap for proxies cannot be written");
                }
            }
            *said = trouble;
        }
        // The sender lives in `held`.
        let _ = timeout(pause, changes.changed()).await;
    }
}

async fn put(client: &Client, place: &Place, authorities: &str) -> kube::Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &place.namespace);
    let there = maps.get(&place.name).await?;
    if there.data.as_ref().and_then(|data| data.get(KEY)).is_some_and(|text| text == authorities) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"data": {KEY: authorities}}));
    maps.patch(&place.name, &PatchParams::default(), &patch).await?;
    info!(namespace = place.namespace, name = place.name, "proxies are told whom to trust");
    Ok(())
}
