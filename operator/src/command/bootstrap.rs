//! `weir bootstrap` and `weir attachment`: what a proxy is given to find Weir.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context;

use super::say;
use crate::{
    args::{AttachmentArgs, BootstrapArgs, ProxyArgs, TrustArgs},
    xds::{
        NodeKey, attachment,
        bootstrap::{self, Credential, Trust},
    },
};

pub(super) fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    let node = node(&args.proxy)?;
    let options = bootstrap::Options {
        service: node.service().to_owned(),
        namespace: node.namespace().to_owned(),
        pod: node.pod().to_owned(),
        xds_address: args.proxy.xds_address.clone(),
        trust: trust(&args.proxy, args.output.as_deref())?,
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
    let options =
        attachment::Options { node: node(&args.proxy)?, xds_address, trust: trust(&args.proxy, None)?, protocol };
    say!("{}", serde_saphyr::to_string(&attachment::attachment(&options)?)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// The id must be one that Weir's own server takes.
fn node(args: &ProxyArgs) -> anyhow::Result<NodeKey> {
    let id = format!("{}/{}/{}", args.namespace, args.service, args.pod);
    id.parse().map_err(|error| anyhow::anyhow!("--namespace, --service, --pod: {error}"))
}

/// What was typed about trust, with the files for Envoy written.
fn trust(args: &ProxyArgs, output: Option<&Path>) -> anyhow::Result<Option<Trust>> {
    let TrustArgs { ca_file, server_name, token_file, certificate_file, key_file, secrets_dir } = args.trust.clone();
    let Some(ca_file) = ca_file else { return Ok(None) };
    let credential = match (token_file, certificate_file, key_file) {
        (Some(token), ..) => Credential::Token(token),
        (None, Some(certificate), Some(key)) => Credential::Certificate { certificate, key },
        _ => {
            anyhow::bail!("--ca-file needs a credential, too: give --token-file, or --certificate-file and --key-file")
        }
    };
    let server_name = server_name
        .or_else(|| args.xds_address.name().map(str::to_owned))
        .context("--xds-address is no name: give --server-name NAME, which Weir's certificate must have")?;
    let beside = output.and_then(Path::parent).filter(|folder| *folder != Path::new("")).map(Path::to_owned);
    let secrets_folder = secrets_dir.or(beside).context(
        "--ca-file needs a folder for the files by which Envoy notices a renewal: give --secrets-dir DIR, or --output DIR/FILE",
    )?;
    let trust = Trust { server_name, ca_file, credential, secrets_folder };
    for (name, secret) in trust.secrets() {
        let file = trust.secrets_folder.join(name);
        fs::write(&file, secret.to_string()).with_context(|| format!("--secrets-dir: {}", file.display()))?;
    }
    Ok(Some(trust))
}
