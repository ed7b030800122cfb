//! The demonstrations as a person runs them: their verdict, what they leave behind, and what is said when they cannot run.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{eventually, temp_dir, weir};
use tokio::sync::Mutex;

const SOON: Duration = Duration::from_secs(60);
/// Two demonstrations that start at the same moment would choose the same ports.
static ALONE: Mutex<()> = Mutex::const_new(());

/// `weir demo` with these arguments, whose folders are below `home`.
fn demo(home: &Path, arguments: &[&str]) -> Command {
    let mut command = weir::command([&["demo"], arguments].concat());
    command.env("TMPDIR", home).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Processes that were started with something below `home`.
fn running(home: &Path) -> Vec<String> {
    let home = home.display().to_string();
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = processes.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&home)).collect()
}

fn left(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_lazy_proxy_gets_what_is_called_forgets_it_and_bears_a_restart() {
    let _alone = ALONE.blocking_lock();
    let home = temp_dir();
    let page = home.path().join("page.html");
    let (code, text) = said(demo(home.path(), &["lazy", "--services", "100", "--out"]).arg(&page));
    assert_eq!(code, Some(0), "{text}");
    let words = [
        "load: OnDemand",
        "lazy   is ready after",
        "clusters of `lazy` after each first call: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "lazy   answers 404 after",
        "has sent 0 resources",
        "ok     eager: has clusters of 100 services at its start and 100 later",
        "ok     lazy: has clusters of 0 services at its start",
        "ok     lazy: has clusters of 20 services after the calls",
        "ok     lazy: everything but s0 is forgotten after",
        "ok     weir: sent 0 resources after it came back",
        "PASSED: 20 of 100 services, ",
    ];
    for words in words {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains("FAILED") && !text.contains('\u{1b}'), "{text}");
    assert_eq!((left(home.path()), running(home.path())), (vec!["page.html".to_owned()], vec![]));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<title>Weir demo: passed</title>"), "{page}");
}

#[test]
fn a_bad_version_is_drained_and_a_good_one_grows() {
    let _alone = ALONE.blocking_lock();
    let home = temp_dir();
    let page = home.path().join("page.html");
    let (code, text) = said(demo(home.path(), &["split", "--seconds", "40", "--out"]).arg(&page));
    assert_eq!(code, Some(0), "{text}");
    let words = [
        "steer: prefer lower errors and p99 latency",
        "/40 s  all well   shares 60.0 20.0 20.0 %",
        "/40 s  v3 is bad  shares",
        "ok     client: while all are well: 2600 of 2600 requests answered",
        "ok     reviews-v3: turned bad, and was left 3 % of the requests after",
        "ok     reviews-v3: received",
        "ok     reviews-v2: has grown from 20.0 %",
        "ok     client: in the last seconds",
        " of 8000 requests failed, and reviews-v3 answered",
        "ok     shares: while they stood still",
        "ok     envoy: closed 0 connections of the client, and its listeners are the same",
        "PASSED: shares of",
    ];
    for words in words {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains("FAILED") && !text.contains('\u{1b}'), "{text}");
    assert_eq!((left(home.path()), running(home.path())), (vec!["page.html".to_owned()], vec![]));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<title>Weir demo: passed</title>") && page.contains("v3 turns bad"), "{page}");
}

#[test]
fn without_steering_a_bad_version_keeps_its_share_and_the_demonstration_fails() {
    let _alone = ALONE.blocking_lock();
    let home = temp_dir();
    let page = home.path().join("page.html");
    let (code, text) = said(demo(home.path(), &["split", "--without-steering", "--seconds", "40", "--out"]).arg(&page));
    assert_eq!(code, Some(1), "{text}");
    let words = [
        "FAILED reviews-v3: turned bad, and was left 3 % of the requests never",
        "FAILED reviews-v2: has grown from 20.0 % to 20.0 %",
        "FAILED client: in the last seconds",
        "ok     shares: while they stood still",
        "FAILED, as it must when nothing steers",
    ];
    for words in words {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert_eq!((left(home.path()), running(home.path())), (vec!["page.html".to_owned()], vec![]));
}

#[tokio::test]
async fn an_interrupted_demonstration_leaves_nothing_behind() {
    let _alone = ALONE.lock().await;
    let home = temp_dir();
    let mut child = demo(home.path(), &["lazy", "--services", "100"]).spawn().unwrap();
    eventually(SOON, "a proxy runs", async || {
        let running = running(home.path());
        if running.iter().any(|line| line.contains("envoy-")) { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    eventually(SOON, "its processes end", async || match running(home.path()) {
        running if running.is_empty() => Ok(()),
        running => Err(format!("{running:?}")),
    })
    .await;
    assert_eq!(left(home.path()), Vec::<String>::new());
}

#[test]
fn what_a_demonstration_cannot_do_is_said() {
    let home = temp_dir();
    for (arguments, words) in [
        (&["lazy", "--services", "99"][..], "99 is not in 100..=5000"),
        (&["lazy", "--without-limit"], "'--without-limit'"),
        (&["adapt", "--services", "200"], "'--services'"),
        (&["split", "--without-limit"], "'--without-limit'"),
        (&["split", "--seconds", "39"], "39 is not in 40..=3600"),
        (&["lasy"], "'lazy'"),
    ] {
        let (code, text) = said(&mut demo(home.path(), arguments));
        assert!(code == Some(2) && text.contains(words), "{arguments:?}: {code:?}: {text}");
    }
    let (code, text) = said(demo(home.path(), &["lazy"]).env("ENVOY_BIN", "/no/such/envoy"));
    assert!(code == Some(2) && text.contains("ENVOY_BIN is /no/such/envoy, which is not a file"), "{text}");
    assert_eq!(left(home.path()), Vec::<String>::new());

    let options =
        [("limit", "--without-limit"), ("adapt", "--seconds"), ("lazy", "--services"), ("split", "--without-steering")];
    for (scenario, option) in options {
        let (code, text) = said(&mut demo(home.path(), &[scenario, "--help"]));
        assert!(code == Some(0) && text.contains(option) && text.contains("--keep"), "{scenario}: {text}");
    }
}
