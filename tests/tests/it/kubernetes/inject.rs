//! Sidecars: pods that ask for one get it from the API server's webhook, and run with real Envoys and iptables.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{
    cluster::{
        Cluster,
        node::{Node, Programs},
    },
    envoy_bin, eventually,
    http::Connection,
    mesh::limiter,
    weir,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(60);

/// The page "Injection" at work: the chart, its example, and what goes wrong. One cluster for all of it.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_ask_for_it_get_a_sidecar_that_limits_and_loses_nothing() {
    let cluster = Cluster::start().await;
    let programs = [("weir", weir::binary().to_owned()), ("envoy", envoy_bin())];
    let programs = programs.map(|(name, program)| (name.to_owned(), vec![program.to_str().unwrap().to_owned()]));
    let node = Node::start(&cluster, Programs::from(programs)).await;
    for namespace in ["weir-system", "shop", "strict", "elsewhere"] {
        cluster.kubectl(&["create", "namespace", namespace]).await.unwrap();
    }
    cluster.install_crds().await;
    let chart = ["install", "weir", "charts/weir", "--namespace", "weir-system"];
    let namespaces = ["--set", "proxyNamespaces={default,shop,strict}"];
    cluster.helm(&[&chart[..], &namespaces].concat()).await.unwrap();
    rolled_out(&cluster, &node, "weir-system", "weir").await;
    asked(&cluster, &bare("asked")).await;

    let place = Place { cluster: &cluster, node: &node };
    place.the_example_limits_and_its_probes_do_not_meet_the_limit().await;
    place.a_roll_out_under_load_loses_no_request().await;
    place.other_ports_pass_and_the_namespace_may_ask().await;
    place.what_an_application_sends_goes_through_its_proxy().await;
    place.without_interception_the_strictest_namespace_takes_it().await;
    place.what_cannot_have_one_starts_and_says_why().await;
    place.by_hand_it_is_the_same().await;
    place.while_weir_is_away_pods_start_without().await;
}

async fn rolled_out(cluster: &Cluster, node: &Node, namespace: &str, name: &str) {
    let deployment = format!("deployment/{name}");
    let status = ["rollout", "status", &deployment, "--namespace", namespace, "--timeout=60s"];
    if let Err(error) = cluster.kubectl(&status).await {
        let pods = ["get", "pods", "--namespace", namespace, "--output=jsonpath={.items[*].status}"];
        let logs = std::fs::read_dir(node.logs()).unwrap().map(|log| log.unwrap().path());
        let logs = logs.filter(|log| log.to_string_lossy().contains(name));
        let logs = logs.map(|log| format!("{}:\n{}", log.display(), std::fs::read_to_string(&log).unwrap()));
        panic!("{error:#}\n{}\n{}", cluster.kubectl(&pods).await.unwrap(), logs.collect::<String>());
    }
}

/// Waits until the API server asks of this pod, and believes the answer: it learns of a webhook and of a namespace's labels a little later.
async fn asked(cluster: &Cluster, pod: &str) {
    eventually(SOON, "the API server asks the webhook", async || {
        let said = cluster.kubectl_with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], pod).await;
        let pod: Value = serde_json::from_str(&said.map_err(|error| format!("{error:#}"))?).unwrap();
        if has_sidecar(&pod) { Ok(()) } else { Err(pod.to_string()) }
    })
    .await;
}

/// A pod that asks for a sidecar, in `default`.
fn bare(name: &str) -> String {
    pod("default", name, json!({"weir.dev/inject": "true"}), json!({}), json!({}))
}

fn pod(namespace: &str, name: &str, labels: Value, annotations: Value, spec: Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "weir", "args": ["demo-service", "--listen=0.0.0.0:8080"]}]},
    });
    spec.as_object().unwrap().iter().for_each(|(field, value)| pod["spec"][field] = value.clone());
    pod.to_string()
}

fn has_sidecar(pod: &Value) -> bool {
    let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    inits.into_iter().any(|init| init["name"] == "weir-proxy" && init["restartPolicy"] == "Always")
}

fn annotation<'a>(pod: &'a Value, name: &str) -> &'a str {
    pod["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

/// Waits until of 20 requests so many are answered 200 and 429.
async fn becomes(address: SocketAddr, expected: (usize, usize), what: &str) {
    eventually(SOON, what, async || {
        let mut connection = Connection::open(address, None).await.map_err(|error| format!("{error:#}"))?;
        match connection.burst("/", 20).await.map_err(|error| format!("{error:#}"))? {
            found if found == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

struct Place<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
}

impl Place<'_> {
    async fn get(&self, namespace: &str, what: &[&str]) -> Value {
        let get = [&["get", "--namespace", namespace, "--output=json"], what].concat();
        serde_json::from_str(&self.cluster.kubectl(&get).await.unwrap()).unwrap()
    }

    async fn ready(&self, namespace: &str, name: &str) -> Value {
        let pod = format!("pod/{name}");
        let ready = ["wait", "--for=condition=Ready", &pod, "--namespace", namespace, "--timeout=60s"];
        if let Err(error) = self.cluster.kubectl(&ready).await {
            let logs =
                ["weir-iptables", "weir-proxy", "app"].map(|container| self.node.log(namespace, name, container));
            panic!("{error:#}\n{}\n{}", logs.join("\n----\n"), self.get(namespace, &[&pod]).await);
        }
        self.get(namespace, &[&pod]).await
    }

    /// The pods of the example that are not ending, with their addresses.
    async fn carts(&self) -> Vec<(String, IpAddr)> {
        let pods = self.get("default", &["pods", "--selector=app=cart"]).await;
        let live =
            pods["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        live.map(|pod| {
            let address = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
            (pod["metadata"]["name"].as_str().unwrap().to_owned(), address)
        })
        .collect()
    }

    /// A counter of a pod's Envoy.
    async fn counter(&self, namespace: &str, pod: &str, name: &str) -> u64 {
        let ask = format!(
            "exec 3<>/dev/tcp/127.0.0.1/15000; printf 'GET /stats?filter=^{name}$ HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let said = self.node.exec(namespace, pod, "weir-proxy", &["bash", "-c", &ask]).await.unwrap();
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {said}"))
    }

    async fn the_example_limits_and_its_probes_do_not_meet_the_limit(&self) {
        self.cluster.kubectl(&["apply", "-f", "examples/injection"]).await.unwrap();
        rolled_out(self.cluster, self.node, "default", "cart").await;
        let (name, address) = self.carts().await.swap_remove(0);
        let pod = self.get("default", &["pod", &name]).await;
        assert!(has_sidecar(&pod), "{pod}");
        assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], 15030);
        eventually(SOON, "the example's policy limits", async || {
            let mut connection = Connection::open((address, 8080).into(), None).await.map_err(|e| format!("{e:#}"))?;
            match connection.burst("/", 60).await.map_err(|error| format!("{error:#}"))? {
                (passed, refused) if passed < 45 && refused > 15 => Ok(()),
                other => Err(format!("{other:?}; {}", self.node.log("default", &name, "weir-proxy"))),
            }
        })
        .await;

        // Not even one probe would pass.
        let strict = limiter("default", "cart", "- name: calm\n  limit: 1 request per hour per pod");
        self.cluster.apply(&strict).await.unwrap();
        becomes((address, 8080).into(), (0, 20), "nothing is let through").await;
        let mut connection = Connection::open((address, 8080).into(), None).await.unwrap();
        let before = self.counter("default", &name, "http.in_8080.downstream_rq_total").await;
        assert_eq!(connection.burst("/", 20).await.unwrap(), (0, 20));
        let mut past = Connection::open((address, 15030).into(), None).await.unwrap();
        assert_eq!(past.burst("/", 20).await.unwrap(), (20, 0), "as kubelet asks");
        let after = self.counter("default", &name, "http.in_8080.downstream_rq_total").await;
        assert_eq!(after - before, 20, "each request comes to Envoy once, and kubelet's not at all");
        assert_eq!(self.ready("default", &name).await["status"]["phase"], "Running");
        self.cluster.kubectl(&["delete", "-f", "examples/injection/policy.yaml"]).await.unwrap();
        becomes((address, 8080).into(), (20, 0), "the limit is gone").await;
        let inside = "exec 3<>/dev/tcp/127.0.0.1/15021; printf 'GET /drain/x HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n' >&3; head -1 <&3";
        let guessed = self.node.exec("default", &name, "app", &["bash", "-c", inside]).await.unwrap();
        assert!(guessed.contains("404"), "who does not know the key drains nothing: {guessed}");
    }

    /// Connections that are kept, through the Service, while all pods are replaced.
    async fn a_roll_out_under_load_loses_no_request(&self) {
        let service = self.get("default", &["service", "cart"]).await;
        let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        let load = Load::start((address, 80).into(), 8);
        eventually(SOON, "the load runs", async || if load.answered() > 200 { Ok(()) } else { Err(String::new()) })
            .await;
        let before = self.carts().await;
        self.cluster.kubectl(&["rollout", "restart", "deployment/cart"]).await.unwrap();
        rolled_out(self.cluster, self.node, "default", "cart").await;
        eventually(SOON, "the old pods are gone", async || {
            let pods = self.get("default", &["pods", "--selector=app=cart"]).await;
            let names: Vec<_> =
                pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].clone()).collect();
            if before.iter().any(|(name, _)| names.contains(&json!(name))) { Err(format!("{names:?}")) } else { Ok(()) }
        })
        .await;
        let answered = load.answered();
        eventually(SOON, "the load goes on", async || {
            if load.answered() > answered + 200 { Ok(()) } else { Err(String::new()) }
        })
        .await;
        let (answered, failed) = load.stop().await;
        assert_eq!(failed, [""; 0], "of {answered}");
        assert!(answered > 1_000, "{answered}");
    }

    /// Two containers, one behind a Service; the namespace asks, and the Service comes after the pod.
    async fn other_ports_pass_and_the_namespace_may_ask(&self) {
        self.cluster.kubectl(&["label", "namespace", "shop", "weir.dev/inject=true"]).await.unwrap();
        let container = |name: &str, port: u16| {
            json!({"name": name, "image": "weir", "args": ["demo-service", format!("--listen=0.0.0.0:{port}"), "--cost=1ms"],
                   "ports": [{"containerPort": port}]})
        };
        let spec = json!({"containers": [container("app", 8080), container("other", 9000), container("apart", 9100)]});
        let annotations = json!({"inject.weir.dev/exclude-ports": "9100"});
        let two = pod("shop", "two", json!({"app": "two"}), annotations, spec);
        asked(self.cluster, &two).await;
        self.cluster.apply(&two).await.unwrap();
        let two = self.ready("shop", "two").await;
        assert!(has_sidecar(&two), "{two}");
        let address: IpAddr = two["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let mut early = Connection::open((address, 8080).into(), None).await.unwrap();
        assert_eq!(early.burst("/", 20).await.unwrap(), (20, 0), "without a Service it passes as it came");

        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two", "namespace": "shop"},
                             "spec": {"selector": {"app": "two"}, "ports": [{"port": 8080}]}});
        // Known from what the proxy streams, and from nothing else.
        let busy =
            "- name: busy\n  when: requests > 1 until requests < 0.5 for 1h\n  limit: 1 request per hour per pod";
        let policy = limiter("shop", "two", busy);
        self.cluster.apply(&format!("{service}\n---\n{policy}")).await.unwrap();
        becomes((address, 8080).into(), (0, 20), "the limit holds").await;
        for (port, passed_on) in [(9000, 1), (9100, 0)] {
            let name = "tcp.weir_passthrough.downstream_cx_total";
            let before = self.counter("shop", "two", name).await;
            let mut connection = Connection::open((address, port).into(), None).await.unwrap();
            assert_eq!(connection.burst("/", 20).await.unwrap(), (20, 0), "{port}");
            assert_eq!(self.counter("shop", "two", name).await - before, passed_on, "{port}");
        }
        let no = pod("shop", "no", json!({"weir.dev/inject": "false"}), json!({}), json!({}));
        self.cluster.apply(&no).await.unwrap();
        assert!(!has_sidecar(&self.get("shop", &["pod", "no"]).await));
    }

    async fn what_an_application_sends_goes_through_its_proxy(&self) {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "caller", "namespace": "shop"},
                             "spec": {"selector": {"app": "caller"}, "ports": [{"port": 8080}]}});
        let annotations = json!({"inject.weir.dev/outbound": "Redirect"});
        let caller = pod("shop", "caller", json!({"app": "caller"}), annotations, json!({}));
        self.cluster.apply(&format!("{service}\n---\n{caller}")).await.unwrap();
        let caller = self.ready("shop", "caller").await;
        assert_eq!(annotation(&caller, "outbound.weir.dev/intercept"), "15001");
        let cart = self.get("default", &["service", "cart"]).await;
        let address = cart["spec"]["clusterIP"].as_str().unwrap();
        let ask = format!(
            "exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.1\\r\\nhost: cart.default\\r\\nconnection: close\\r\\n\\r\\n' >&3; head -1 <&3"
        );
        eventually(SOON, "it is answered", async || {
            match self.node.exec("shop", "caller", "app", &["bash", "-c", &ask]).await {
                Ok(said) if said.contains(" 200 ") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert!(self.counter("shop", "caller", "http.out_15001.downstream_rq_total").await > 0);
        assert!(self.counter("shop", "caller", "cluster.out_default_cart_80.upstream_rq_total").await > 0);
    }

    async fn without_interception_the_strictest_namespace_takes_it(&self) {
        let restricted = ["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"];
        self.cluster.kubectl(&restricted).await.unwrap();
        let secure = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "app", "image": "weir", "securityContext": secure,
                            "args": ["demo-service", "--listen=0.0.0.0:9000", "--cost=1ms"]}],
        });
        let labels = json!({"app": "explicit", "weir.dev/inject": "true"});
        let redirect = pod("strict", "redirect", labels.clone(), json!({}), spec.clone());
        let refused = self.cluster.apply(&redirect).await.unwrap_err().to_string();
        assert!(refused.contains("weir-iptables") && refused.contains("NET_ADMIN"), "{refused}");

        let annotations = json!({"inject.weir.dev/interception": "None", "inbound.weir.dev/8080": "9000"});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "explicit", "namespace": "strict"},
                             "spec": {"selector": {"app": "explicit"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let policy = limiter("strict", "explicit", "- name: calm\n  limit: 1 request per hour per pod");
        let pod = pod("strict", "explicit", labels, annotations, spec);
        self.cluster.apply(&format!("{service}\n---\n{policy}\n---\n{pod}")).await.unwrap();
        let pod = self.ready("strict", "explicit").await;
        let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        becomes((address, 8080).into(), (0, 20), "the limit holds").await;
    }

    async fn what_cannot_have_one_starts_and_says_why(&self) {
        let asks = json!({"weir.dev/inject": "true"});
        for (namespace, name, annotations, spec, why) in [
            ("default", "host", json!({}), json!({"hostNetwork": true}), "spec.hostNetwork: "),
            (
                "default",
                "typo",
                json!({"inject.weir.dev/interception": "none"}),
                json!({}),
                "metadata.annotations[inject.weir.dev/interception]: expected Redirect or None",
            ),
            ("elsewhere", "lost", json!({}), json!({}), "metadata.namespace: in the namespace elsewhere no ConfigMap"),
        ] {
            self.cluster.apply(&pod(namespace, name, asks.clone(), annotations, spec)).await.unwrap();
            let made = self.get(namespace, &["pod", name]).await;
            assert!(!has_sidecar(&made), "{made}");
            assert!(annotation(&made, "sidecar.weir.dev/refused").contains(why), "{made}");
        }
        self.cluster.apply(&pod("weir-system", "own", asks, json!({}), json!({}))).await.unwrap();
        let own = self.get("weir-system", &["pod", "own"]).await;
        assert!(!has_sidecar(&own) && annotation(&own, "sidecar.weir.dev/refused").is_empty(), "nobody asks: {own}");
    }

    async fn by_hand_it_is_the_same(&self) {
        let inject = async |file: &str| {
            let output = weir::command(["inject", "--file", file]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let once = inject("examples/injection/workload.yaml").await;
        let folder = testkit::temp_dir();
        let file = folder.path().join("once.yaml");
        std::fs::write(&file, &once).unwrap();
        assert_eq!(inject(file.to_str().unwrap()).await, once, "twice is once");
        let dry = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let said = self.cluster.kubectl_with(&dry, &once).await.unwrap();
        assert!(said.contains("deployment.apps/cart configured"), "{said}");

        let by_hand: Vec<Value> = serde_saphyr::from_multiple(&once).unwrap();
        let template = &by_hand[1]["spec"]["template"];
        let (name, _) = self.carts().await.swap_remove(0);
        let by_webhook = self.get("default", &["pod", &name]).await;
        let inits = |pod: &Value| {
            let mut names = Vec::new();
            for init in pod["spec"]["initContainers"].as_array().unwrap() {
                names.push(json!([
                    init["name"],
                    init["image"],
                    init["securityContext"],
                    init["resources"],
                    init["command"]
                ]));
            }
            names
        };
        assert_eq!(inits(template), inits(&by_webhook));
        let output = weir::command(["inject", "-f", "examples/kubernetes/workload.yaml"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(
            said.contains("Deployment default/a: spec.template.spec.containers[1].name: there is a proxy already"),
            "{said}"
        );
    }

    async fn while_weir_is_away_pods_start_without(&self) {
        let away = ["scale", "deployment/weir", "--namespace", "weir-system", "--replicas=0"];
        self.cluster.kubectl(&away).await.unwrap();
        let gone =
            ["wait", "--for=delete", "pod", "--namespace", "weir-system", "--selector=app.kubernetes.io/name=weir"];
        self.cluster.kubectl(&[&gone[..], &["--timeout=60s"]].concat()).await.unwrap();
        self.cluster.apply(&bare("early")).await.unwrap();
        assert!(!has_sidecar(&self.ready("default", "early").await));
        // One that has its sidecar already starts, and passes on what comes.
        let (old, _) = self.carts().await.swap_remove(0);
        let mut copy = self.get("default", &["pod", &old]).await;
        let metadata = json!({"name": "copy", "namespace": "default", "labels": {"app": "copy"},
                              "annotations": copy["metadata"]["annotations"]});
        copy["metadata"] = metadata;
        copy["spec"].as_object_mut().unwrap().remove("nodeName");
        copy.as_object_mut().unwrap().remove("status");
        self.cluster.apply(&copy.to_string()).await.unwrap();
        let address: IpAddr = self.ready("default", "copy").await["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let mut connection = Connection::open((address, 8080).into(), None).await.unwrap();
        assert_eq!(connection.burst("/", 20).await.unwrap(), (20, 0));
    }
}

/// Workers that ask one after the other over connections that they keep as long as they may.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    workers: JoinSet<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr, workers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for _ in 0..workers {
            set.spawn(work(address, Arc::clone(&stop), Arc::clone(&answered)));
        }
        Self { stop, answered, workers: set }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.workers.join_all().await.concat();
        (self.answered.load(Ordering::Relaxed), failed)
    }
}

/// What went wrong.
async fn work(address: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<String> {
    let mut failed = Vec::new();
    let mut kept: Option<Connection> = None;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(address, None).await {
                Ok(connection) => connection,
                Err(error) => {
                    failed.push(format!("{error:#}"));
                    continue;
                }
            },
        };
        let request = http::Request::get("/").body(http_body_util::Full::default()).unwrap();
        match connection.send(request).await {
            Ok(response) if response.status() == 200 => {
                answered.fetch_add(1, Ordering::Relaxed);
                let closes = response.headers().get("connection").is_some_and(|value| value == "close");
                kept = (!closes).then_some(connection);
            }
            Ok(response) => failed.push(response.status().to_string()),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    failed
}
