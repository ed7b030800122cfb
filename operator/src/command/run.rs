//! `weir run`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use limiter::policy::tenants::Tenants;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admission,
    app::{self, Config, Source},
    args::{ClusterArgs, IdentityArgs, ReplicaArgs, RunArgs, SidecarArgs, WebhookArgs},
    checkpoint::object::Place,
    identity::{self, Configuration, Kept, Listen, Webhooks},
    metrics,
    replicas::{self, Candidate, Peers, Vote},
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
    let identity = identity(args.identity, &args.webhook, (&args.xds_address, args.admin_address), &source)?;
    let tenants = args.tenants.tenants(matches!(source, Source::Kubernetes(_)));
    let webhook = webhook(&args.webhook, args.sidecar, &identity, &source, &tenants)?;
    let (replicas, checkpoint) = replicas(args.replicas, identity.certificate.is_some(), &source)?;
    anyhow::ensure!(
        checkpoint.is_none() || args.state_dir.is_none(),
        "--checkpoint-config-map and --state-dir exclude each other: decisions are kept in one place"
    );
    let config = Config {
        replicas,
        checkpoint,
        source,
        identity,
        webhook,
        tenants,
        xds_address: args.xds_address,
        admin_address: args.admin_address,
        metrics_api_interval,
        scrape_interval: args.scrape_interval,
        learn_calls: args.prometheus.learn_calls.clone(),
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

/// What was typed about other replicas says all of it, or nothing.
fn replicas(
    args: ReplicaArgs,
    has_certificate: bool,
    source: &Source,
) -> anyhow::Result<(Option<replicas::Config>, Option<Place>)> {
    let ReplicaArgs { replica_address, lease, replica_name, sole_replica: sole, peers, checkpoint_config_map } = args;
    let cluster = match source {
        Source::Kubernetes(cluster) => Some(cluster),
        Source::Folder(_) => None,
    };
    let place = match (checkpoint_config_map, cluster) {
        (Some(_), None) => {
            anyhow::bail!("--checkpoint-config-map is for --kubernetes: with --config give --state-dir")
        }
        (name, cluster) => name.zip(cluster).map(|(name, cluster)| Place { client: cluster.client.clone(), name }),
    };
    let given = lease.as_ref().map(|_| "--lease").or((!peers.is_empty()).then_some("--peers"));
    let Some(address) = replica_address else {
        let given = given.or(replica_name.map(|_| "--replica-name")).or(sole.then_some("--sole-replica"));
        anyhow::ensure!(
            given.is_none(),
            "{} needs --replica-address, at which other replicas reach this one, such as 10.0.0.7:15020",
            given.unwrap_or_default()
        );
        return Ok((None, place));
    };
    anyhow::ensure!(
        !address.ip().is_unspecified(),
        "--replica-address {address} is no address by which others reach this one: give the pod's or the machine's own, such as 10.0.0.7:15020"
    );
    anyhow::ensure!(
        has_certificate,
        "--replica-address needs a certificate, by which replicas know each other: give --certificate-dir DIR with tls.crt, tls.key and \
         ca.crt, or --certificate-service and --certificate-secret to have Weir make it"
    );
    let vote = match (lease, peers, cluster) {
        (Some(_), peers, _) if !peers.is_empty() => {
            anyhow::bail!("--lease and --peers exclude each other: give --lease with --kubernetes, --peers without")
        }
        (Some(lease), _, Some(cluster)) => {
            let name = replica_name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| address.to_string());
            let (client, address) = (cluster.client.clone(), address.to_string());
            Vote::Lease(Candidate { client, lease, name, address, sole })
        }
        (Some(_), ..) => anyhow::bail!("--lease is for --kubernetes: with --config give --peers"),
        (None, peers, _) if peers.is_empty() => {
            anyhow::bail!("--replica-address needs --lease NAME with --kubernetes, or --peers with --config")
        }
        (None, _, Some(_)) => anyhow::bail!("--peers is for --config: with --kubernetes give --lease"),
        (None, peers, None) => {
            anyhow::ensure!(!sole, "--sole-replica is for --lease: among --peers the first that is alive decides");
            anyhow::ensure!(
                replica_name.is_none(),
                "--replica-name is for --lease: among --peers each is known by its address"
            );
            let own = address.to_string();
            let list = peers.join(",");
            let peers = Peers::new(peers, &own);
            Vote::Peers(peers.with_context(|| {
                format!("--peers {list} must name this replica, too, as its --replica-address {own}")
            })?)
        }
    };
    Ok((Some(replicas::Config { address, vote }), place))
}

/// What was typed about the webhook says all of it, or nothing.
fn webhook(
    args: &WebhookArgs,
    sidecar: SidecarArgs,
    identity: &identity::Config,
    source: &Source,
    tenants: &Tenants,
) -> anyhow::Result<Option<admission::Config>> {
    let WebhookArgs { webhook_address, webhook_configuration, injection_configuration } = args;
    let given = webhook_address.map(|_| "--webhook-address");
    let given = given.or(webhook_configuration.as_ref().map(|_| "--webhook-configuration"));
    let given = given.or(injection_configuration.as_ref().map(|_| "--injection-configuration"));
    let Some(given) = given else { return Ok(None) };
    let Source::Kubernetes(cluster) = source else {
        anyhow::bail!("{given} is for --kubernetes: nobody asks where there is no API server");
    };
    let Some(address) = *webhook_address else {
        anyhow::bail!("{given} is for the webhook, which is not served: give --webhook-address, such as 0.0.0.0:15443");
    };
    anyhow::ensure!(
        identity.certificate.is_some(),
        "--webhook-address needs a certificate: give --certificate-dir DIR with tls.crt and tls.key, or \
         --certificate-service and --certificate-secret to have Weir make it"
    );
    let trusting = identity.places.iter().map(|place| place.namespace.clone()).collect();
    let sidecars = admission::Sidecars { settings: sidecar.settings(), trusting };
    let (namespaces, tenants) = (cluster.namespaces.clone(), tenants.clone());
    Ok(Some(admission::Config { address, namespaces, tenants, sidecars }))
}

/// What was typed about who is who, against what is served and where.
fn identity(
    args: IdentityArgs,
    webhook: &WebhookArgs,
    (xds, admin): (&Listen, SocketAddr),
    source: &Source,
) -> anyhow::Result<identity::Config> {
    let certificate = certificate(&args, webhook, source)?;
    let IdentityArgs { ca_config_maps: places, xds_client_ca: clients, xds_plaintext, .. } = args;
    let in_cluster = matches!(source, Source::Kubernetes(_));
    if !places.is_empty() {
        anyhow::ensure!(in_cluster, "--ca-config-map is for --kubernetes: a folder has no ConfigMaps");
        anyhow::ensure!(
            certificate.is_some(),
            "--ca-config-map needs a certificate: give --certificate-dir, or --certificate-service and --certificate-secret"
        );
    }
    let proxies = if xds_plaintext {
        anyhow::ensure!(
            xds.is_local(),
            "--xds-plaintext is for loopback or a Unix socket alone, not for --xds-address {xds}: whoever reaches it could read what it serves and \
             pretend to be any proxy; give --certificate-dir instead, or --certificate-service and --certificate-secret"
        );
        anyhow::ensure!(clients.is_none(), "--xds-plaintext and --xds-client-ca exclude each other: give one of them");
        if in_cluster {
            warn!(address = %xds, "xDS is served in plain text, and proxies need not prove who they are");
        }
        None
    } else if certificate.is_some() && (in_cluster || clients.is_some()) {
        Some(identity::Credentials { tokens: in_cluster, clients })
    } else if certificate.is_some() && !xds.is_local() {
        anyhow::bail!(
            "--xds-address {xds} needs --xds-client-ca FILE beside the certificate: without it no proxy can prove who it is"
        )
    } else if clients.is_some() {
        anyhow::bail!(
            "--xds-client-ca needs a certificate of Weir's own: give --certificate-dir DIR with tls.crt and tls.key"
        )
    } else if in_cluster {
        anyhow::bail!(
            "--kubernetes needs a certificate for xDS: give --certificate-service and --certificate-secret to have Weir make it, \
             or --certificate-dir; or --xds-plaintext, on loopback or a Unix socket"
        )
    } else if xds.is_local() {
        None
    } else {
        anyhow::bail!(
            "--xds-address {xds} is not loopback: whoever reaches it could pretend to be any proxy; give --certificate-dir DIR \
             and --xds-client-ca FILE, with which proxies prove who they are"
        )
    };
    // Without an API server nobody can prove who reads: what is not health is then for this machine.
    let readers = in_cluster && !admin.ip().is_loopback();
    anyhow::ensure!(
        !readers || certificate.is_some(),
        "--admin-address {admin} is not loopback, so it is read by HTTPS, which needs a certificate: give --certificate-service and \
         --certificate-secret, or --certificate-dir"
    );
    Ok(identity::Config { certificate, proxies, readers, places })
}

/// Where the certificate comes from.
fn certificate(
    args: &IdentityArgs,
    webhook: &WebhookArgs,
    source: &Source,
) -> anyhow::Result<Option<identity::Source>> {
    let names =
        [("--certificate-service", &args.certificate_service), ("--certificate-secret", &args.certificate_secret)];
    let configurations = [
        ("--webhook-configuration", &webhook.webhook_configuration),
        ("--injection-configuration", &webhook.injection_configuration),
    ];
    let named = names.iter().find(|(_, name)| name.is_some()).map(|(flag, _)| *flag);
    match (&args.certificate_dir, named) {
        (Some(_), Some(named)) => anyhow::bail!(
            "--certificate-dir and {named} exclude each other: Weir makes the certificate, or somebody else does"
        ),
        (Some(folder), None) => {
            let metadata = std::fs::metadata(folder).with_context(|| folder.display().to_string());
            let is_folder = metadata.context("--certificate-dir cannot be read")?.is_dir();
            anyhow::ensure!(is_folder, "--certificate-dir: {} is no folder", folder.display());
            for (flag, name) in configurations {
                anyhow::ensure!(
                    name.is_none(),
                    "--certificate-dir and {flag} exclude each other: whoever makes the certificate tells the API server"
                );
            }
            Ok(Some(identity::Source::Folder(folder.clone())))
        }
        (None, None) => Ok(None),
        (None, Some(named)) => {
            let Source::Kubernetes(cluster) = source else {
                anyhow::bail!("{named} is for --kubernetes: without an API server give --certificate-dir");
            };
            let [service, secret] = names.map(|(flag, name)| {
                let needs = || format!("{named} needs {flag} NAME, too: Weir makes a certificate with both");
                name.clone().with_context(needs)
            });
            let kinds = [Webhooks::Validating, Webhooks::Mutating].into_iter().zip(configurations);
            let configurations = kinds
                .filter_map(|(webhooks, (_, name))| Some(Configuration { webhooks, name: name.clone()? }))
                .collect();
            let client = cluster.client.clone();
            Ok(Some(identity::Source::Kept(Kept { client, service: service?, secret: secret?, configurations })))
        }
    }
}
