//! `weir run`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    admission::{self, Kept},
    app::{self, Config, Source},
    args::{ClusterArgs, RunArgs, WebhookArgs},
    metrics,
    telemetry::traces,
    watch::kubernetes,
};

pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: draining"),
            _ = interrupt.recv() => info!("interrupted: draining"),
        }
        stop.cancel();
    });
    let metrics_api_interval = args.cluster.metrics_api_interval.unwrap_or(metrics::kubernetes::DEFAULT_INTERVAL);
    let source = source(args.config, args.cluster).await?;
    let webhook = webhook(args.webhook, &source)?;
    let config = Config {
        source,
        webhook,
        xds_address: args.xds_address,
        admin_address: args.admin_address,
        metrics_api_interval,
        scrape_interval: args.scrape_interval,
        prometheus: args.prometheus.config(),
        state_folder: args.state_dir,
        traces: args.otlp_endpoint.map(|endpoint| traces::Config { endpoint, sample: args.otlp_sample }),
    };
    app::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// What was typed says one source of objects, and nothing about the other.
async fn source(folder: Option<PathBuf>, cluster: ClusterArgs) -> anyhow::Result<Source> {
    let ClusterArgs { kubernetes, kubeconfig, context, namespaces, metrics_api_interval } = cluster;
    match (folder, kubernetes) {
        (Some(_), true) => anyhow::bail!("--config and --kubernetes exclude each other: give one of them"),
        (None, false) => anyhow::bail!("give --config DIR to read a folder, or --kubernetes to watch an API server"),
        (Some(_), false) if kubeconfig.is_some() => anyhow::bail!("--kubeconfig is for --kubernetes, not for --config"),
        (Some(_), false) if context.is_some() => anyhow::bail!("--context is for --kubernetes, not for --config"),
        (Some(_), false) if !namespaces.is_empty() => {
            anyhow::bail!("--namespace is for --kubernetes; of a folder everything is read")
        }
        (Some(_), false) if metrics_api_interval.is_some() => {
            anyhow::bail!("--metrics-api-interval is for --kubernetes: a folder has no metrics API")
        }
        (Some(folder), false) => Ok(Source::Folder(folder)),
        (None, true) => {
            let client = kubernetes::client(kubeconfig.as_deref(), context).await.context("--kubernetes")?;
            Ok(Source::Kubernetes(kubernetes::Config { client, namespaces }))
        }
    }
}

/// What was typed about the webhook says all of one certificate, or nothing.
fn webhook(args: WebhookArgs, source: &Source) -> anyhow::Result<Option<admission::Config>> {
    let WebhookArgs {
        webhook_address,
        webhook_certificate_dir: folder,
        webhook_service,
        webhook_secret,
        webhook_configuration,
    } = args;
    let names = [
        ("--webhook-service", webhook_service),
        ("--webhook-secret", webhook_secret),
        ("--webhook-configuration", webhook_configuration),
    ];
    let named = names.iter().find(|(_, name)| name.is_some()).map(|(flag, _)| *flag);
    let given = webhook_address.map(|_| "--webhook-address");
    let given = given.or(folder.as_ref().map(|_| "--webhook-certificate-dir")).or(named);
    let Some(given) = given else { return Ok(None) };
    let Source::Kubernetes(cluster) = source else {
        anyhow::bail!("{given} is for --kubernetes: nobody asks where there is no API server");
    };
    let Some(address) = webhook_address else {
        anyhow::bail!("{given} is for the webhook, which is not served: give --webhook-address, such as 0.0.0.0:15443");
    };
    let certificate = match (folder, named) {
        (Some(_), Some(named)) => anyhow::bail!(
            "--webhook-certificate-dir and {named} exclude each other: Weir makes the certificate, or somebody else does"
        ),
        (Some(folder), None) => {
            let metadata = std::fs::metadata(&folder).with_context(|| folder.display().to_string());
            let is_folder = metadata.context("--webhook-certificate-dir cannot be read")?.is_dir();
            anyhow::ensure!(is_folder, "--webhook-certificate-dir: {} is no folder", folder.display());
            admission::Source::Folder(folder)
        }
        (None, None) => anyhow::bail!(
            "--webhook-address needs a certificate: give --webhook-certificate-dir DIR with tls.crt and tls.key, or \
             --webhook-service, --webhook-secret and --webhook-configuration to have Weir make it"
        ),
        (None, Some(named)) => {
            let [service, secret, configuration] = names.map(|(flag, name)| {
                name.with_context(|| format!("{named} needs {flag} NAME, too: Weir makes a certificate with all three"))
            });
            let client = cluster.client.clone();
            admission::Source::Kept(Kept { client, service: service?, secret: secret?, configuration: configuration? })
        }
    };
    Ok(Some(admission::Config { address, certificate, namespaces: cluster.namespaces.clone() }))
}
