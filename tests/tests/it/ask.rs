//! What a person asks: what policies would do with given numbers, and what a running Weir does, again and again.

use std::{
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use testkit::{
    eventually,
    mesh::{Service, limiter, put},
    ports, temp_dir,
    weir::{self, Weir},
};

const DEADLINE: Duration = Duration::from_secs(20);

const POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: reviews}, {kind: Service, name: cart}]
  metrics: [{name: queue_depth, type: Count, reduce: Max, scrape: {series: worker_queue_depth}}]
  rules:
  - name: hot
    when: cpu > 80% for 10s until cpu < 70% for 30s
    limit: 30 requests per second across all pods
  - name: queue
    when: queue_depth > 20
    limit: 10 requests per second per pod
";

/// Exit code and everything that `weir explain --at` says of the policy with these numbers.
fn at(numbers: &str) -> (i32, String) {
    let (folder, other) = (temp_dir(), temp_dir());
    put(folder.path(), "policy.yaml", POLICY);
    put(other.path(), "at.yaml", numbers);
    let file = other.path().join("at.yaml");
    let output =
        weir::command(["explain".as_ref(), "--at".as_ref(), file.as_os_str(), folder.path().as_os_str()]).output();
    let Output { status, stdout, stderr } = output.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap(), said)
}

#[test]
fn says_what_policies_would_do_with_given_numbers() {
    let (code, said) = at("metrics: {cpu: 91%, queue_depth: 12}\npods: 3\nservices: {shop/cart: {for: 4s, pods: 1}}\n");
    assert_eq!(code, 0, "{said}");
    let now = said.split_once("Now, at Service shop/cart with 1 ready pod:\n").expect("cart comes first").1;
    let (cart, reviews) = now.split_once("Now, at Service shop/reviews with 3 ready pods:\n").unwrap();
    for (at, words) in [
        (cart, &["Rule hot: cpu is 91%, above 80% for 4s of 10s: no limit yet"][..]),
        (cart, &["Rule queue: queue_depth is 12: no limit (needs above 20)"]),
        (reviews, &["Rule hot: cpu is 91%", "limiting to 30 requests per second", "Each pod's share: 10 x3"]),
    ] {
        assert!(words.iter().all(|word| at.contains(word)), "{words:?} in\n{said}");
    }
    assert!(!said.contains("a rule moved"), "made-up time is no news: {said}");
    // What is not given is missing, as it would be.
    let (code, said) = at("for: 1m\n");
    assert!(code == 0 && said.contains("cpu has never been seen: no limit"), "{said}");
}

#[test]
fn a_mistake_in_the_numbers_is_named_with_its_mend() {
    for (numbers, words) in [
        ("metrics: {cpi: 91%}", "metrics: cpi: unknown word `cpi` (did you mean `cpu`?)"),
        ("metrics: {queue_depht: 3}", "did you mean `queue_depth`?"),
        ("metrics: {cpu: 91}", "write `91%`"),
        ("metrics: {cpu: -3%}", "cannot be negative"),
        ("metrics: {cpu: 3s}", "a ratio is written like `80%`"),
        ("metrics: {cpu: [1]}", "expected a value such as 91% or 250ms"),
        ("metrics: {pods: 3}", "write `pods` beside `metrics`"),
        ("pods: 20000", "expected 0 to 10000"),
        ("for: soon", "for: expected a duration such as `10s`"),
        ("pod: 3", "at.yaml: line 1 column 1: unknown field `pod`, expected one of metrics, for, pods, services"),
        ("services: {shop/revews: {pods: 2}}", "did you mean shop/reviews?"),
    ] {
        let (code, said) = at(numbers);
        assert!(code == 2 && said.contains("error: --at: ") && said.contains(words), "{numbers}: {code}: {said}");
    }
}

/// What a process writes, as it comes.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn from(mut source: impl Read + Send + 'static) -> Self {
        let heard = Self::default();
        let words = heard.0.clone();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut part) {
                words.lock().extend_from_slice(&part[..length]);
            }
        });
        heard
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    async fn until(&self, word: &str) {
        eventually(DEADLINE, word, async || {
            let text = self.text();
            if text.contains(word) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

async fn interrupt(mut child: Child) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap().code()
}

fn config() -> tempfile::TempDir {
    let folder = temp_dir();
    put(
        folder.path(),
        "policy.yaml",
        &limiter("ns-a", "checkout", "- name: calm\n  limit: 30 requests per second per pod"),
    );
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_a_weir_that_comes_and_goes() {
    let folder = config();
    Service::start("ns-a", "checkout", 1).await.write(folder.path());
    let (xds, admin) = (ports::free(), ports::free());
    let mut command = weir::command(["status", "--watch", "--admin-address", &admin.to_string()]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let heard = Heard::from(watch.stdout.take().unwrap());
    heard.until("no Weir answers on 127.0.0.1:").await;
    let mut weir = Weir::spawn(folder.path(), xds, admin, &[]);
    weir.ready().await;
    heard.until("30 requests per second").await;
    let before = heard.text().matches("--- ").count();
    eventually(DEADLINE, "it is shown again", async || {
        let now = heard.text().matches("--- ").count();
        if now > before + 1 { Ok(()) } else { Err(now) }
    })
    .await;
    weir.kill().await.unwrap();
    eventually(DEADLINE, "it is away again", async || match heard.text().matches("no Weir answers").count() {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    let text = heard.text();
    assert!(!text.contains('\x1b'), "no terminal, no colours: {text}");
    assert_eq!(interrupt(watch).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_drawn_in_place_and_given_back() {
    let folder = config();
    Service::start("ns-a", "checkout", 1).await.write(folder.path());
    let weir = Weir::start(folder.path(), &[]).await;
    let terminal = openpty(None, None).unwrap();
    let mut command = weir::command(["status", "--watch", "--admin-address", &weir.admin.to_string()]);
    let slave: OwnedFd = terminal.slave;
    let watch = command.stdout(slave.try_clone().unwrap()).stderr(slave).spawn().unwrap();
    drop(command);
    let heard = Heard::from(std::fs::File::from(terminal.master));
    heard.until("\x1b[?1049h").await;
    heard.until("30 requests per second").await;
    weir.kill().await.unwrap();
    heard.until("What it said last:").await;
    assert_eq!(interrupt(watch).await, Some(0));
    heard.until("\x1b[?1049l").await;
    assert!(heard.text().contains("\x1b[?25h"), "the cursor is back");
}
