//! What another control plane is given once, so that its proxies enforce Weir's limits: three HTTP filters and a cluster.

use prost::Name;
use serde_json::{Value, json};

use envoy_types::pb::envoy::extensions::{
    common::matching::v3::ExtensionWithMatcher, filters::http::set_metadata::v3::Config as SetMetadata,
};

use crate::xds::{
    NodeKey,
    bootstrap::{Protocol, Trust, Upstream, from_weir, weir_cluster},
    names,
    print::{self, Error},
    resources::extension,
};

/// What an attachment is written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The pod whose limits are enforced.
    pub node: NodeKey,
    /// Where Weir serves xDS, as the proxy reaches it.
    pub xds_address: Upstream,
    /// How they trust each other; `None`: in plain text.
    pub trust: Option<Trust>,
    /// Which form of xDS the proxy speaks to Weir; it need not be that of the other control plane.
    pub protocol: Protocol,
}

/// `{http_filters, clusters}`: the filters go before the router of every listener that takes requests for the pod.
///
/// # Errors
///
/// A filter cannot be printed, which is a bug of Weir's.
pub fn attachment(options: &Options) -> Result<Value, Error> {
    let Options { node, xds_address, trust, protocol } = options;
    let nothing = json!({
        "@type": SetMetadata::type_url(),
        "metadata": [{"metadata_namespace": names::METADATA, "value": {}}],
    });
    let fetched = json!({
        "name": names::extension(node),
        "config_discovery": {
            "config_source": {
                "resource_api_version": "V3",
                "initial_fetch_timeout": "1s",
                "api_config_source": from_weir(*protocol),
            },
            // Without Weir the listener serves at once, without limits. Without these two lines it refuses every connection
            // until a timeout, and then answers 500 to everything.
            "default_config": nothing,
            "apply_default_config_without_warming": true,
            "type_urls": [ExtensionWithMatcher::type_url(), SetMetadata::type_url()],
        },
    });
    let mut http_filters = vec![fetched];
    for filter in extension::filters() {
        http_filters.push(print::message(&filter)?);
    }
    Ok(json!({"http_filters": http_filters, "clusters": [weir_cluster(xds_address, trust.as_ref())]}))
}
