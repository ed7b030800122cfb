use std::fs;

use super::*;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: checkout}\n";

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::new(dir.path());
    (dir, folder)
}

fn write(dir: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) {
    fs::write(dir.path().join(name), text).expect("written");
}

fn said(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Apply { key, origin, .. } => format!("apply {key} {origin}"),
            Change::Delete(key) => format!("delete {key}"),
            Change::Source { origin, problems } => format!("source {origin} {}", problems.len()),
        })
        .collect()
}

#[test]
fn says_what_is_new_and_what_is_gone() {
    let (dir, mut folder) = folder();
    write(&dir, "a.yaml", SERVICE);
    write(&dir, "notes.txt", "not: read");
    write(&dir, ".hidden.yaml", SERVICE);
    assert_eq!(said(&folder.scan().expect("listed")), ["apply services/default/checkout a.yaml:1"]);
    assert!(folder.scan().expect("listed").is_empty());
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    assert_eq!(said(&folder.scan().expect("listed")), ["delete services/default/checkout"]);
}

#[test]
fn a_renamed_file_deletes_nothing() {
    let (dir, mut folder) = folder();
    write(&dir, "a.yaml", SERVICE);
    folder.scan().expect("listed");
    fs::rename(dir.path().join("a.yaml"), dir.path().join("b.yaml")).expect("renamed");
    assert_eq!(said(&folder.scan().expect("listed")), ["apply services/default/checkout b.yaml:1"]);
}

#[test]
fn a_half_written_file_keeps_what_it_said() {
    let (dir, mut folder) = folder();
    write(&dir, "a.yaml", SERVICE);
    folder.scan().expect("listed");
    for half in [&b"apiVersion: v1\nkind: [Serv"[..], b"", b"apiVersion: v1\nkind: \xff"] {
        write(&dir, "a.yaml", half);
        assert_eq!(said(&folder.scan().expect("listed")), ["source a.yaml 1"]);
        write(&dir, "a.yaml", SERVICE);
        assert_eq!(said(&folder.scan().expect("listed")), ["source a.yaml 0"], "cleared, and nothing else moved");
    }
}

#[test]
fn an_object_in_two_files_counts_once_and_is_reported() {
    let (dir, mut folder) = folder();
    write(&dir, "a.yaml", SERVICE);
    write(&dir, "b.yaml", SERVICE);
    let first = said(&folder.scan().expect("listed"));
    assert_eq!(first, ["apply services/default/checkout a.yaml:1", "source b.yaml 1"]);
    assert!(folder.scan().expect("listed").is_empty(), "said once");
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    let second = said(&folder.scan().expect("listed"));
    assert_eq!(second, ["apply services/default/checkout b.yaml:1", "source b.yaml 0"]);
}

#[test]
fn ten_thousand_files_are_read() {
    let (dir, mut folder) = folder();
    for n in 0..10_000 {
        write(&dir, &format!("{n}.yaml"), format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\n"));
    }
    assert_eq!(folder.scan().expect("listed").len(), 10_000);
    assert!(folder.scan().expect("listed").is_empty());
}

#[tokio::test]
async fn a_change_of_the_folder_is_noticed() {
    let (dir, _) = folder();
    let (batches_tx, mut batches_rx) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let task = spawn(dir.path().to_owned(), batches_tx, shutdown.clone()).expect("listed");
    let first = batches_rx.recv().await.expect("the first look");
    assert!(first.initial && first.changes.is_empty());
    write(&dir, "a.yaml", SERVICE);
    let next =
        tokio::time::timeout(Duration::from_secs(10), batches_rx.recv()).await.expect("in time").expect("a batch");
    assert_eq!(said(&next.changes), ["apply services/default/checkout a.yaml:1"]);
    shutdown.cancel();
    task.await.expect("ends");
}
