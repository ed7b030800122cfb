//! The webhook: what `kubectl apply` is told, and the certificate that makes the API server believe it.
//!
//! The chart makes everything around it, as in a cluster; Weir itself runs here, with the rights and the arguments of the chart's.

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;
use testkit::{
    authority::{Authority, Signed},
    cluster::Cluster,
    eventually,
    http::{self, Connection},
    mesh::{self, limiter},
    ports::{self, Network},
    proxy::Proxy,
    temp_dir,
    weir::Weir,
};

const SOON: Duration = Duration::from_secs(30);
const GOOD: &str = "- name: calm\n  limit: 30 requests per second across all pods";
const BAD: &str = "- name: hot\n  when: cpuu > 80%\n  limit: 30 requests per second per pod";

/// A namespace with the chart in it, whose Service leads to `address`.
struct Place {
    cluster: &'static Cluster,
    namespace: String,
    address: SocketAddr,
}

impl Place {
    async fn install(values: &[&str]) -> Self {
        let cluster = Cluster::shared().await;
        cluster.install_crds().await;
        let namespace = cluster.namespace("admission").await;
        Self::install_in(cluster, namespace, values).await
    }

    async fn install_in(cluster: &'static Cluster, namespace: String, values: &[&str]) -> Self {
        let watched = format!("namespaces={{{namespace}}}");
        let chart = ["install", "weir", "charts/weir", "--namespace", &namespace, "--set", &watched];
        cluster.helm(&[&chart[..], values].concat()).await.unwrap();
        let network = Network::routable();
        let address = SocketAddr::new(network.address(1), network.port());
        let place = Self { cluster, namespace, address };
        place.lead_to(&[address]).await;
        place
    }

    /// The endpoints of the Service: a controller finds none, since no pod runs.
    async fn lead_to(&self, addresses: &[SocketAddr]) {
        for (number, address) in addresses.iter().enumerate() {
            let slice = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: by-hand-{number}, namespace: {0}, labels: {{kubernetes.io/service-name: weir}}}}\n\
                 addressType: IPv4\nports: [{{name: https-webhook, port: {1}}}]\nendpoints: [{{addresses: [{2}]}}]\n",
                self.namespace,
                address.port(),
                address.ip(),
            );
            self.cluster.apply(&slice).await.unwrap();
        }
    }

    /// Weir as the chart starts it, but for where it listens.
    async fn weir(&self) -> Weir {
        self.weir_at(self.address, &[]).await
    }

    async fn weir_at(&self, address: SocketAddr, more: &[&str]) -> Weir {
        let mut weir = self.spawn(address, more).await;
        weir.ready().await;
        weir
    }

    async fn spawn(&self, address: SocketAddr, more: &[&str]) -> Weir {
        let kubeconfig = self.cluster.service_account_kubeconfig(&self.namespace, "weir").await;
        let configuration = self.configuration();
        let address = address.to_string();
        let mut arguments =
            vec!["--namespace", &self.namespace, "--webhook-address", &address, "--allow-promql", &self.namespace];
        let made = [
            "--certificate-service",
            "weir",
            "--certificate-secret",
            SECRET,
            "--webhook-configuration",
            &configuration,
        ];
        arguments.extend(if more.is_empty() { &made[..] } else { more });
        Weir::spawn_watch(&kubeconfig, ports::free(), ports::free(), &arguments)
    }

    fn configuration(&self) -> String {
        format!("weir.{}", self.namespace)
    }

    fn key(&self, name: &str) -> String {
        format!("smartlimiters.weir.dev/{}/{name}", self.namespace)
    }

    /// What `kubectl apply --dry-run=server` says of these rules, warnings as errors.
    async fn dry_run(&self, manifests: &str) -> Result<String, String> {
        let dry = ["apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
        self.cluster.kubectl_with(&dry, manifests).await.map_err(|error| format!("{error:#}"))
    }

    async fn dry_run_rules(&self, rules: &str) -> Result<String, String> {
        self.dry_run(&limiter(&self.namespace, "cart", rules)).await
    }

    /// Waits until the API server asks, and believes the answer.
    async fn asked(&self) -> String {
        eventually(SOON, "the API server asks the webhook", async || {
            match self.dry_run(&limiter(&self.namespace, "asked", BAD)).await {
                Err(said) if said.contains("denied the request") => Ok(said),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// kubectl, in the namespace.
    async fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[words, &["--namespace", &self.namespace]].concat()).await
    }

    /// The Secret's data, and whom the API server is to trust.
    async fn certificate(&self) -> [String; 2] {
        let data = self.kubectl(&["get", "secret", SECRET, "--output=jsonpath={.data}"]).await.unwrap();
        let bundle = "--output=jsonpath={.webhooks[*].clientConfig.caBundle}";
        let bundle = self.kubectl(&["get", "validatingwebhookconfiguration", &self.configuration(), bundle]).await;
        [data, bundle.unwrap()]
    }

    async fn empty_bundle(&self, value: &str) {
        let patch = format!(
            "[{{\"op\": \"replace\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"{value}\"}}]"
        );
        let configuration = self.configuration();
        let patch = ["patch", "validatingwebhookconfiguration", &configuration, "--type=json", "--patch", &patch];
        self.kubectl(&patch).await.unwrap();
    }
}

/// A limiter for the Services with these labels.
fn selecting(namespace: &str, labels: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: chosen, namespace: {namespace}}}\n\
         spec: {{selector: {{matchLabels: {labels}}}, rules: [{{name: all, limit: 1 request per second per pod}}]}}\n"
    )
}

const SECRET: &str = "weir-certificate";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_of_mistakes_and_warned_of_what_is_odd() {
    let place = Place::install(&[]).await;
    let namespace = &place.namespace;
    let weir = place.weir().await;
    let said = place.asked().await;
    for words in ["spec.rules[0].when: ", "cpuu > 80%", "^^^^ column 1", "`cpu`", "smartlimiters.weir.dev"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let error = place.cluster.apply(&limiter(namespace, "cart", BAD)).await.unwrap_err().to_string();
    assert!(error.contains("denied the request"), "{error}");
    let article = format!(
        "{{apiVersion: microservice.netease.com/v1alpha1, kind: SmartLimiter, metadata: {{name: cart, namespace: {namespace}}}, \
         spec: {{descriptors: [{{condition: \"{{cpuu}}>0.8\", action: {{fill_interval: {{seconds: 1}}, quota: \"30/{{pod}}\"}}}}]}}}}"
    );
    let said = place.dry_run(&article).await.unwrap_err();
    assert!(said.contains("spec.descriptors[0].condition") && said.contains("column"), "{said}");

    let lazy = |spec: &str| {
        format!(
            "{{apiVersion: weir.dev/v1alpha1, kind: LazyConfig, metadata: {{name: cart, namespace: {namespace}}}, spec: {spec}}}"
        )
    };
    let said = place.dry_run(&lazy("{always: [cart, 'https://api.stripe.example']}")).await.unwrap_err();
    assert!(said.contains("LazyConfig \"cart\" has a mistake") && said.contains("spec.always[1]"), "{said}");
    assert!(said.contains("drop `https://`: write `api.stripe.example:443`"), "{said}");
    let said = place
        .dry_run(&lazy("{workloadSelector: {matchLabels: {app: cart}}, always: [example.com]}"))
        .await
        .unwrap_err();
    assert!(said.contains("Warning: spec.workloadSelector: no pod behind a Service has these labels yet"), "{said}");
    assert!(said.contains("there is no Service com/example yet") && said.contains("`example.com.`"), "{said}");
    assert!(said.contains("lazyconfig.weir.dev/cart created (server dry run)"), "{said}");

    // Legal but odd: told, and admitted all the same.
    let said = place.dry_run_rules(GOOD).await.unwrap_err();
    assert!(said.contains(&format!("Warning: spec.targetRefs: Service {namespace}/cart does not exist yet")), "{said}");
    assert!(said.contains("smartlimiter.weir.dev/cart created (server dry run)"), "{said}");
    let asks = "- name: deep\n  when: depth > 5\n  limit: 1 request per second per pod\nmetrics:\n\
                - {name: depth, type: Count, reduce: Max, prometheus: {query: 'max(depth)'}}";
    let said = place.dry_run_rules(asks).await.unwrap_err();
    assert!(said.contains("`depth` has no value") && said.contains("--prometheus"), "{said}");

    let service = mesh::Service::start_in(Network::routable(), namespace, "cart", 1).await;
    place.cluster.put(&service).await;
    let busy = "- name: busy\n  when: requests > 1000 per second\n  limit: 1 request per second per pod";
    place.cluster.apply(&limiter(namespace, "cart", busy)).await.unwrap();
    weir.until(SOON, "the Service is known", |status| status.policy(&place.key("cart")).map(drop)).await;
    let said = place.dry_run_rules(GOOD).await;
    assert!(said.is_ok(), "nothing is odd: {said:?}");
    let _proxy = Proxy::start(&weir, &service, 0).await;
    let inbound = service.pods[0].inbound;
    let high = "- name: high\n  limit: 100000 requests per second across all pods";
    let said = eventually(SOON, "its requests have been measured", async || {
        Connection::open(inbound, None).await.unwrap().burst("/", 20).await.unwrap();
        match place.dry_run_rules(high).await {
            Err(said) => Ok(said),
            Ok(said) => Err(said),
        }
    })
    .await;
    let words = format!("is above any traffic seen: the most that Service {namespace}/cart got since ");
    assert!(said.contains(&words) && said.contains("(server dry run)"), "{said}");
    let low = "- name: low\n  limit: 1 request per hour across all pods";
    assert!(place.dry_run_rules(low).await.is_ok(), "less than was seen");

    // What excludes another object's rule, and a Service that nothing can be limited on.
    let adapt = "- name: keep\n  adapt: keep cpu below 70%, between 20 and 500 requests per second per pod";
    place.cluster.apply(&limiter(namespace, "cart", adapt)).await.unwrap();
    let second = limiter(namespace, "cart", adapt).replacen("name: cart,", "name: second,", 1);
    let said = eventually(SOON, "the first one is known", async || match place.dry_run(&second).await {
        Err(said) if said.contains("steers the same requests") => Ok(said),
        other => Err(format!("{other:?}")),
    })
    .await;
    let words =
        format!("rule \"keep\" steers the same requests of {namespace}/cart as \"keep\" of {}", place.key("cart"));
    assert!(said.contains(&words) && said.contains("nothing of this object will apply"), "{said}");
    let external = "apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: NAMESPACE}\n\
                    spec: {type: ExternalName, externalName: api.stripe.example}\n";
    place.cluster.apply(&external.replace("NAMESPACE", namespace)).await.unwrap();
    eventually(SOON, "it is told", async || match place.dry_run(&limiter(namespace, "far", GOOD)).await {
        Err(said) if said.contains("nothing can be limited on Service") && said.contains("api.stripe.example") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    let said = place.dry_run(&selecting(namespace, "{\"-tier\": web}")).await.unwrap_err();
    assert!(said.contains("spec.selector.matchLabels[-tier]: no object can have a label \"-tier\""), "{said}");

    assert!(weir.metric("weir_admission_reviews_total").await >= 6.0);
    let until = weir.metric("weir_identity_certificate_expiry_timestamp_seconds").await;
    let days = (until - jiff::Timestamp::now().as_second() as f64) / 86_400.0;
    assert!((89.0..=90.0).contains(&days), "{days}");
    // No TLS, no answer, and no harm.
    assert!(http::get(place.address, "/validate").await.is_err());
    place.asked().await;
    assert!(weir.stop().await.unwrap().success());
}

#[tokio::test]
async fn what_was_applied_while_weir_was_away_is_told_by_its_status_and_stays_free_to_go() {
    let place = Place::install(&[]).await;
    let weir = place.weir().await;
    place.asked().await;
    weir.stop().await.unwrap();

    // Nobody is kept from applying anything.
    place.cluster.apply(&limiter(&place.namespace, "cart", BAD)).await.unwrap();
    let weir = place.weir().await;
    let key = place.key("cart");
    weir.until(SOON, "the status tells the mistake", |status| status.expect(&key, "Accepted", false, "Invalid")).await;
    let reason = r#"--output=jsonpath={.status.conditions[?(@.type=="Accepted")].message}"#;
    eventually(SOON, "on the API server, too", async || {
        let said = place.kubectl(&["get", "wsl", "cart", reason]).await.unwrap();
        if said.contains("spec.rules[0].when") && said.contains("column 1") { Ok(()) } else { Err(said) }
    })
    .await;
    place.asked().await;

    let said = place.dry_run_rules(BAD).await.unwrap_err();
    assert!(said.contains("Warning: still refused: spec.rules[0].when: column 1: "), "{said}");
    assert!(said.contains("smartlimiter.weir.dev/cart configured (server dry run)"), "{said}");
    let object = ["patch", "wsl", "cart", "--type=merge", "--patch"];
    let patch = async |patch: &str| place.kubectl(&[&object[..], &[patch]].concat()).await;
    patch(r#"{"metadata": {"finalizers": ["example.com/held"]}}"#).await.unwrap();
    patch(r#"{"metadata": {"labels": {"a": "b"}}}"#).await.unwrap();
    let error = patch(r#"{"spec": {"mode": "Shadow"}}"#).await.unwrap_err().to_string();
    assert!(error.contains("denied the request"), "another spec, as bad: {error}");
    place.kubectl(&["delete", "wsl", "cart", "--wait=false"]).await.unwrap();
    patch(r#"{"metadata": {"finalizers": null}}"#).await.unwrap();
    place.kubectl(&["wait", "wsl", "cart", "--for=delete", "--timeout=20s"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_outlives_weir_and_is_put_right() {
    let place = Place::install(&[]).await;
    assert_eq!(place.certificate().await, ["", ""], "as the chart leaves it");
    // Two at once: one of them is first, and both serve the same.
    let network = Network::routable();
    let other_address = SocketAddr::new(network.address(1), network.port());
    place.lead_to(&[place.address, other_address]).await;
    let (weir, other) = tokio::join!(place.weir(), place.weir_at(other_address, &[]));
    place.asked().await;
    let made = place.certificate().await;
    for _ in 0..8 {
        let said = place.dry_run_rules(BAD).await;
        assert!(said.is_err(), "whichever is asked is believed: {said:?}");
    }
    assert!(
        weir.metric("weir_admission_reviews_total").await + other.metric("weir_admission_reviews_total").await > 8.0
    );
    assert_eq!(place.certificate().await, made, "made once");
    other.stop().await.unwrap();
    place.lead_to(&[place.address, place.address]).await;

    weir.stop().await.unwrap();
    let mark = place.cluster.mark();
    let weir = place.weir().await;
    place.asked().await;
    assert_eq!(place.certificate().await, made, "a restart serves what there is");
    let ours = |entry: &testkit::cluster::audit::Entry| entry.user.ends_with(&format!(":{}:weir", place.namespace));
    let writes: Vec<_> = place.cluster.audit(mark).into_iter().filter(|entry| ours(entry) && entry.writes()).collect();
    assert!(writes.is_empty(), "{writes:?}");

    // Somebody takes the authority out, or another one in.
    for wrong in ["", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"] {
        place.empty_bundle(wrong).await;
        eventually(SOON, "it is put back", async || {
            let now = place.certificate().await;
            if now == made { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
    place.asked().await;

    // Somebody damages the Secret: seen while Weir runs, and when it starts.
    let garbage = r#"{"data": {"tls.crt": "Z2FyYmFnZQ==", "tls.key": null}}"#;
    let damage = ["patch", "secret", SECRET, "--type=merge", "--patch", garbage];
    place.kubectl(&damage).await.unwrap();
    let healed = async |before: [String; 2]| {
        eventually(SOON, "there is another certificate", async || {
            let now = place.certificate().await;
            let whole = now[0].contains("tls.key") && !now[0].contains("Z2FyYmFnZQ==");
            if whole && now[0] != before[0] && now[1] != before[1] { Ok(now) } else { Err(format!("{now:?}")) }
        })
        .await
    };
    let second = healed(made).await;
    place.asked().await;
    weir.stop().await.unwrap();
    place.kubectl(&damage).await.unwrap();
    let weir = place.weir().await;
    healed(second).await;
    place.asked().await;
    assert!(weir.log().contains("damaged"), "{}", weir.log());
}

/// A Secret's data with a certificate of which less than a third is left, and its authority.
fn due(namespace: &str) -> (Value, String) {
    let authority = Authority::new("before");
    let Signed { certificate, key } = authority.server(&format!("weir.{namespace}.svc"), -80, 10);
    let data = serde_json::json!({"tls.crt": certificate, "tls.key": key, "ca.crt": authority.pem()});
    (serde_json::json!({"stringData": data}), authority.pem().to_owned())
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_expires_and_the_authority_before_stays_trusted() {
    let place = Place::install(&[]).await;
    let weir = place.weir().await;
    place.asked().await;
    // As if it had run for 80 days.
    let (data, before) = due(&place.namespace);
    place.kubectl(&["patch", "secret", SECRET, "--type=merge", "--patch", &data.to_string()]).await.unwrap();
    let bundle = eventually(SOON, "it is renewed", async || {
        let text = r#"--output=go-template={{index .data "ca.crt" | base64decode}}"#;
        let authorities = ["get", "secret", SECRET, text];
        let authorities = place.kubectl(&authorities).await.unwrap();
        let renewed = authorities.ends_with(&before) && authorities.len() > before.len();
        if renewed { Ok(authorities) } else { Err(authorities) }
    })
    .await;
    let bundle = k8s_openapi::ByteString(bundle.into_bytes());
    let bundle = serde_json::to_value(&bundle).unwrap();
    eventually(SOON, "both are trusted", async || {
        let [_, trusted] = place.certificate().await;
        if trusted == bundle { Ok(()) } else { Err(trusted) }
    })
    .await;
    place.asked().await;
    eventually(SOON, "the new one is served", async || {
        let until = weir.metric("weir_identity_certificate_expiry_timestamp_seconds").await;
        let days = (until - jiff::Timestamp::now().as_second() as f64) / 86_400.0;
        if days > 89.0 { Ok(()) } else { Err(format!("{days} days are left")) }
    })
    .await;
    assert!(weir.log().contains("renewing Weir's certificate"), "{}", weir.log());
}

/// A self-signed certificate of these files; what the API server has to trust.
fn write_certificate(folder: &Path, namespace: &str) -> String {
    let own = rcgen::generate_simple_self_signed([format!("weir.{namespace}.svc")]).unwrap();
    std::fs::write(folder.join("tls.crt"), own.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), own.signing_key.serialize_pem()).unwrap();
    own.cert.pem()
}

#[tokio::test]
async fn a_certificate_of_somebody_elses_is_read_again_when_it_changes() {
    let cluster = Cluster::shared().await;
    cluster.install_crds().await;
    let namespace = cluster.namespace("admission").await;
    let folder = temp_dir();
    let [first, second] = [(); 2].map(|()| write_certificate(folder.path(), &namespace));
    let values = temp_dir();
    let values = values.path().join("values.yaml");
    let install = |bundle: &str| {
        let webhook: Value = serde_json::json!({"certificate": {"secretName": "own", "caBundle": bundle}});
        std::fs::write(&values, webhook.to_string()).unwrap();
    };
    install(&second);
    let values_flag = ["--values", values.to_str().unwrap()];
    let place = Place::install_in(cluster, namespace.clone(), &values_flag).await;
    let weir = place.weir_at(place.address, &["--certificate-dir", folder.path().to_str().unwrap()]).await;
    place.asked().await;

    drop(first);
    let third = write_certificate(folder.path(), &namespace);
    install(&third);
    let watched = format!("namespaces={{{namespace}}}");
    let upgrade = ["upgrade", "weir", "charts/weir", "--namespace", &namespace, "--set", &watched];
    cluster.helm(&[&upgrade[..], &values_flag].concat()).await.unwrap();
    place.asked().await;

    // Half of a renewal, or a mistake: what is served stays.
    std::fs::write(folder.path().join("tls.crt"), "garbage").unwrap();
    eventually(SOON, "it is said", async || {
        let log = weir.log();
        if log.contains("certificate cannot be used") { Ok(()) } else { Err(log) }
    })
    .await;
    place.asked().await;
}

#[tokio::test]
async fn what_was_typed_about_the_webhook_says_all_of_it() {
    let cluster = Cluster::shared().await;
    let folder = temp_dir();
    let folder = folder.path().to_str().unwrap();
    let address = ["--webhook-address", "127.0.0.1:0"];
    for (arguments, said) in [
        (
            &["--webhook-configuration", "a"][..],
            "--webhook-configuration is for the webhook, which is not served: give --webhook-address",
        ),
        (&address[..], "--webhook-address needs a certificate: give --certificate-dir"),
        (
            &[&address[..], &["--certificate-service", "a"]].concat()[..],
            "--certificate-service needs --certificate-secret NAME",
        ),
        (
            &[&address[..], &["--certificate-dir", folder, "--certificate-secret", "a"]].concat()[..],
            "--certificate-dir and --certificate-secret exclude each other",
        ),
        (
            &[&address[..], &["--certificate-dir", "/nowhere"]].concat()[..],
            "--certificate-dir cannot be read: /nowhere: No such file or directory",
        ),
    ] {
        let weir = Weir::spawn_watch(cluster.kubeconfig(), ports::free(), ports::free(), arguments);
        let (status, log) = weir.ended().await.unwrap();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(said), "{arguments:?}: {log}");
    }
    // What only the API server can tell costs the webhook alone.
    let names =
        ["--certificate-service", "weir", "--certificate-secret", "nowhere", "--webhook-configuration", "nowhere"];
    let weir = Weir::watch(cluster.kubeconfig(), &[&address[..], &names].concat()).await;
    eventually(SOON, "it is said", async || {
        let log = weir.log();
        let said = r#"Secret nowhere: secrets "nowhere" not found"#;
        if log.contains(said) && log.contains("the chart makes it, empty") { Ok(()) } else { Err(log) }
    })
    .await;
    let weir = Weir::spawn(Path::new(folder), ports::free(), ports::free(), &address);
    let (_, log) = weir.ended().await.unwrap();
    assert!(log.contains("--webhook-address is for --kubernetes"), "{log}");
}
