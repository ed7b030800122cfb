//! `make cluster`: a Kubernetes control plane with a node, Weir installed by its charts, and a Service on three pods behind
//! Envoys, until Ctrl-C.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use testkit::{
    cluster::{
        Cluster,
        node::{Node, Programs},
    },
    envoy_bin, eventually, project_root, weir,
};

const NAMESPACE: &str = "weir-system";

/// A Kubernetes control plane with a node, Weir, and a Service behind Envoys, until Ctrl-C.
#[derive(Debug, Parser)]
struct Args {
    /// Replicas of Weir.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { replicas } = Args::parse();
    say("starting etcd, kube-apiserver and kube-controller-manager");
    let cluster = Cluster::start().await;
    let node = Node::start(&cluster, programs(&cluster)?).await;
    // From here on it can be entered, to see what keeps the rest.
    let state = State::new(&cluster, &node)?;

    say("installing Weir by helm");
    let install = ["upgrade", "--install", "--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "2m"];
    for chart in ["weir-crds", "weir"] {
        let mut chart = vec![chart.to_owned(), format!("charts/{chart}")];
        if chart[0] == "weir" {
            chart.extend(["--set".to_owned(), format!("replicas={replicas}")]);
        }
        let arguments: Vec<_> = install.iter().copied().chain(chart.iter().map(String::as_str)).collect();
        if let Err(error) = cluster.helm(&arguments).await {
            say(&format!("what containers wrote:\n{}", written(&node)));
            return Err(error);
        }
    }

    say("starting examples/kubernetes/workload.yaml: a Service on three pods behind Envoys");
    cluster.kubectl(&["apply", "-f", "examples/kubernetes/workload.yaml"]).await?;
    cluster.kubectl(&["rollout", "status", "deployment/a", "--timeout=2m"]).await?;
    let several = if replicas > 1 { several(replicas, &leader(&cluster).await) } else { String::new() };

    say(&format!("it runs. In another terminal, in this folder:

  scripts/in-cluster                                  a shell in it, with kubectl and helm
  scripts/in-cluster kubectl get pods --all-namespaces
  scripts/in-cluster kubectl apply -f examples/kubernetes/policy.yaml
  scripts/in-cluster kubectl apply -f examples/kubernetes/load.yaml
  scripts/in-cluster kubectl get weir --all-namespaces
  scripts/in-cluster kubectl describe smartlimiters.microservice.netease.com a
  scripts/in-cluster curl -si http://a.default.svc    one request, through Envoy
  scripts/in-cluster curl -sZ --parallel-max 40 -o /dev/null -w '%{{http_code}}\\n' 'http://a.default.svc/?[1-2000]' | sort | uniq -c
{several}
The output of containers is in .cache/cluster/logs, since a node without a kubelet has no `kubectl logs`. Ctrl-C ends it all."));
    tokio::signal::ctrl_c().await?;
    say("ending");
    drop(state);
    Ok(())
}

/// The pod of Weir that decides, once there is one.
async fn leader(cluster: &Cluster) -> String {
    let lease = ["get", "lease", "weir", "--namespace", NAMESPACE, "--output=jsonpath={.spec.holderIdentity}"];
    eventually(Duration::from_secs(30), "a replica leads", async || match cluster.kubectl(&lease).await {
        Ok(holder) if !holder.is_empty() => Ok(holder),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// What can be tried with several replicas.
fn several(replicas: u8, leader: &str) -> String {
    format!(
        "
Weir has {replicas} replicas; {leader} leads. Kill the one that leads: after eight seconds another does, limits stand, no request fails.

  scripts/in-cluster kubectl --namespace {NAMESPACE} get lease weir
  scripts/in-cluster sh -c 'pkill -KILL -f \"replica-nam[e]=$(kubectl --namespace {NAMESPACE} get lease weir --output=jsonpath={{.spec.holderIdentity}})\"'
  scripts/in-cluster kubectl --namespace {NAMESPACE} get lease weir --watch
"
    )
}

fn say(text: &str) {
    eprintln!("cluster: {text}");
}

/// The output of all containers, for when one does not get ready.
fn written(node: &Node) -> String {
    let files = std::fs::read_dir(node.logs()).into_iter().flatten().flatten();
    files
        .map(|file| {
            format!("--- {}\n{}", file.file_name().display(), std::fs::read_to_string(file.path()).unwrap_or_default())
        })
        .collect()
}

fn programs(cluster: &Cluster) -> anyhow::Result<Programs> {
    let programs = [
        ("weir", weir::binary().to_owned()),
        ("envoy", envoy_bin()),
        ("kubectl", cluster.program("kubectl")),
        ("curl", PathBuf::from("curl")),
    ];
    let text = |path: PathBuf| path.into_os_string().into_string().ok().context("a path that is not UTF-8");
    programs.into_iter().map(|(image, program)| Ok((image.to_owned(), vec![text(program)?]))).collect()
}

/// What `scripts/in-cluster` needs, while it runs.
struct State {
    links: Vec<PathBuf>,
}

impl State {
    fn new(cluster: &Cluster, node: &Node) -> anyhow::Result<Self> {
        let folder = project_root().join(".cache/cluster");
        std::fs::create_dir_all(&folder)?;
        let link = |name: &str, target: &Path| -> anyhow::Result<PathBuf> {
            let link = folder.join(name);
            let _ = std::fs::remove_file(&link);
            symlink(target, &link)?;
            Ok(link)
        };
        let links = vec![link("kubeconfig", cluster.kubeconfig())?, link("logs", &node.logs())?];
        // Services by their names for people too: this mount is in the namespace only.
        let hosts = node.hosts("default");
        let status = Command::new("mount").arg("--bind").arg(hosts).arg("/etc/hosts").status()?;
        ensure!(status.success(), "mounting /etc/hosts");
        Ok(Self { links })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for link in &self.links {
            let _ = std::fs::remove_file(link);
        }
    }
}
