//! `weir run`.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    app::{self, Config, Source},
    args::{ClusterArgs, RunArgs},
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
    let source = match args.config {
        Some(folder) => Source::Folder(folder),
        None => Source::Kubernetes(cluster(args.cluster).await?),
    };
    let config = Config {
        source,
        xds_address: args.xds_address,
        admin_address: args.admin_address,
        scrape_interval: args.scrape_interval,
        prometheus: args.prometheus.config(),
        state_folder: args.state_dir,
        traces: args.otlp_endpoint.map(|endpoint| traces::Config { endpoint, sample: args.otlp_sample }),
    };
    app::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn cluster(args: ClusterArgs) -> anyhow::Result<kubernetes::Config> {
    let ClusterArgs { kubernetes: _, kubeconfig, context, namespaces } = args;
    let client = kubernetes::client(kubeconfig.as_deref(), context).await.context("--kubernetes")?;
    Ok(kubernetes::Config { client, namespaces })
}
