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
        (&["lasy"], "'lazy'"),
    ] {
        let (code, text) = said(&mut demo(home.path(), arguments));
        assert!(code == Some(2) && text.contains(words), "{arguments:?}: {code:?}: {text}");
    }
    let (code, text) = said(demo(home.path(), &["lazy"]).env("ENVOY_BIN", "/no/such/envoy"));
    assert!(code == Some(2) && text.contains("ENVOY_BIN is /no/such/envoy, which is not a file"), "{text}");
    assert_eq!(left(home.path()), Vec::<String>::new());

    for (scenario, option) in [("limit", "--without-limit"), ("adapt", "--seconds"), ("lazy", "--services")] {
        let (code, text) = said(&mut demo(home.path(), &[scenario, "--help"]));
        assert!(code == Some(0) && text.contains(option) && text.contains("--keep"), "{scenario}: {text}");
    }
}
