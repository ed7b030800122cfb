//! `weir bootstrap` and `weir attachment`: what a proxy is given to find Weir.

use std::{fs, process::ExitCode};

use anyhow::Context;

use super::say;
use crate::{
    args::{AttachmentArgs, BootstrapArgs, ProxyArgs},
    xds::{NodeKey, attachment, bootstrap},
};

pub(super) fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    let node = node(&args.proxy)?;
    let options = bootstrap::Options {
        service: node.service().to_owned(),
        namespace: node.namespace().to_owned(),
        pod: node.pod().to_owned(),
        xds_address: args.proxy.xds_address.clone(),
        admin_address: args.proxy_admin_address,
        protocol: args.proxy.protocol,
        metrics_interval: args.metrics_interval,
    };
    let text = serde_saphyr::to_string(&bootstrap::bootstrap(&options))?;
    match &args.output {
        Some(file) => fs::write(file, text).with_context(|| format!("--output {}", file.display()))?,
        None => say!("{}", text.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn attach(args: &AttachmentArgs) -> anyhow::Result<ExitCode> {
    let ProxyArgs { xds_address, protocol, .. } = args.proxy.clone();
    let options = attachment::Options { node: node(&args.proxy)?, xds_address, protocol };
    say!("{}", serde_saphyr::to_string(&attachment::attachment(&options)?)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// The id must be one that Weir's own server takes.
fn node(args: &ProxyArgs) -> anyhow::Result<NodeKey> {
    let id = format!("{}/{}/{}", args.namespace, args.service, args.pod);
    id.parse().map_err(|error| anyhow::anyhow!("--namespace, --service, --pod: {error}"))
}
