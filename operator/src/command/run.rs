//! `weir run`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    app::{self, Config, Source},
    args::{ClusterArgs, RunArgs},
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
    let config = Config {
        source,
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
