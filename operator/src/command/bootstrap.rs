//! `weir bootstrap`: a ready Envoy bootstrap.

use std::process::ExitCode;

use super::say;
use crate::{
    args::BootstrapArgs,
    xds::{bootstrap, node::NodeKey},
};

pub(super) fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    let node = NodeKey { namespace: args.namespace.clone(), service: args.service.clone(), pod: args.pod.clone() };
    // The id must be one that Weir's own server takes.
    let node: NodeKey = node.to_string().parse().map_err(|error| anyhow::anyhow!("--namespace, --service, --pod: {error}"))?;
    let options = bootstrap::Options {
        service: node.service,
        namespace: node.namespace,
        pod: node.pod,
        xds_address: args.xds_address,
        admin_address: args.proxy_admin_address,
    };
    say!("{}", serde_saphyr::to_string(&bootstrap::bootstrap(&options))?.trim_end());
    Ok(ExitCode::SUCCESS)
}
