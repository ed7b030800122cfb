//! `weir bootstrap`: a ready Envoy bootstrap.

use std::process::ExitCode;

use super::say;
use crate::{
    args::BootstrapArgs,
    xds::{NodeKey, bootstrap},
};

pub(super) fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    // The id must be one that Weir's own server takes.
    let id = format!("{}/{}/{}", args.namespace, args.service, args.pod);
    let node: NodeKey = id.parse().map_err(|error| anyhow::anyhow!("--namespace, --service, --pod: {error}"))?;
    let options = bootstrap::Options {
        service: node.service().to_owned(),
        namespace: node.namespace().to_owned(),
        pod: node.pod().to_owned(),
        xds_address: args.xds_address,
        admin_address: args.proxy_admin_address,
        metrics_interval: args.metrics_interval,
    };
    say!("{}", serde_saphyr::to_string(&bootstrap::bootstrap(&options))?.trim_end());
    Ok(ExitCode::SUCCESS)
}
