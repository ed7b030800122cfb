use std::path::Path;

use limiter::{
    engine::{Phase, RuleState, Stage},
    policy::{Kind, PolicyKey},
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    index::asked::Why,
    intent::DestinationKey,
    translate::decide::{self, Told},
};

fn service(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn told(rules: usize) -> Vec<Told> {
    let rule = |number| {
        let policy = PolicyKey { kind: Kind::SmartLimiter, namespace: "shop".to_owned(), name: "p".to_owned() };
        let stage = Some(Stage { phase: Phase::Limiting, since: now() });
        let state = RuleState { stage, ..RuleState::default() };
        Told { policy, rule: format!("rule-{number}"), state, decision: None }
    };
    (0..rules).map(rule).collect()
}

fn states(service: &ServiceKey, rules: usize) -> States {
    decide::states(service, &told(rules))
}

fn now() -> Timestamp {
    "2026-01-02T10:00:00Z".parse().unwrap()
}

fn news(names: &[&str]) -> News {
    let decisions = names.iter().map(|name| (service(name), Some(told(2).into()))).collect();
    News { decisions, ..News::default() }
}

fn calls() -> Vec<Remembered> {
    let one = |to: DestinationKey, why| Remembered { to, why, since: now(), used: now() };
    let cart = DestinationKey { service: service("cart"), port: 80 };
    vec![one(cart, Why::OnDemand), one(DestinationKey::outside("api.stripe.example", 443), Why::Learned)]
}

fn open(folder: &Path) -> (Folder, Kept) {
    Folder::open(folder, now()).unwrap()
}

/// A folder with these services in it, and nobody who holds it.
fn written(names: &[&str]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(home.path());
    folder.take(news(names), now());
    folder.write(now()).unwrap();
    home
}

/// Files of decisions, with what is in them.
fn files(home: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(home.join("decisions")).unwrap();
    entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn gives_back_what_it_was_given() {
    let home = tempfile::tempdir().unwrap();
    let (mut folder, kept) = open(home.path());
    assert!(kept.decisions.is_empty() && kept.damaged.is_empty());
    folder.take(news(&["cart", "checkout", "search"]), now());
    assert_eq!(folder.write(now()).unwrap(), 3);
    assert_eq!(folder.write(now()).unwrap(), 0, "nothing changed");
    let decisions = [(service("cart"), None), (service("none"), None)].into();
    folder.take(News { decisions, ..News::default() }, now());
    assert_eq!(folder.write(now()).unwrap(), 1);
    drop(folder);
    let (folder, kept) = open(home.path());
    let expected = ["checkout", "search"].map(|name| (service(name), (now(), states(&service(name), 2))));
    assert_eq!(kept.decisions, expected.into());
    assert!(kept.damaged.is_empty() && !folder.is_behind());
    assert_eq!(files(home.path()).len(), 2, "an empty file is removed, and no draft is left");
}

#[test]
fn what_is_called_is_kept_beside_and_damage_costs_its_own_line() {
    let home = tempfile::tempdir().unwrap();
    let (mut folder, kept) = open(home.path());
    assert!(kept.memories.is_empty());
    let memories = ["page", "search"].map(|name| (service(name), Some(Arc::new(calls()))));
    folder.take(News { memories: memories.into(), ..News::default() }, now());
    folder.write(now()).unwrap();
    drop(folder);
    let (mut folder, kept) = open(home.path());
    assert_eq!(kept.memories, ["page", "search"].map(|name| (service(name), calls())).into());
    assert!(kept.decisions.is_empty() && kept.damaged.is_empty() && !folder.is_behind());
    folder.take(News { memories: [(service("search"), None)].into(), ..News::default() }, now());
    folder.write(now()).unwrap();
    drop(folder);

    let line = record::line_of_calls(&service("page"), now(), &calls()).unwrap();
    let newer = line.split_once(' ').unwrap().1.trim_end().replacen("OnDemand", "Foretold", 1);
    let newer = format!("{:016x} {newer}\n", xxhash_rust::xxh3::xxh3_64(newer.as_bytes()));
    let (known, damages) = record::read_calls(record::file([&newer].into_iter(), now()).unwrap().as_bytes());
    assert_eq!(known, [(service("page"), now(), calls()[1..].to_vec())]);
    assert!(damages[0].to_string().contains("a call, by another version of Weir"), "{}", damages[0]);
    for file in std::fs::read_dir(home.path().join("calls")).unwrap() {
        std::fs::write(file.unwrap().path(), "nonsense").unwrap();
    }
    let (_, kept) = open(home.path());
    assert_eq!((kept.memories.len(), kept.damaged.len()), (0, 1));
}

#[test]
fn a_folder_has_one_holder() {
    let home = tempfile::tempdir().unwrap();
    let (folder, _) = open(home.path());
    let error = Folder::open(home.path(), now()).unwrap_err().to_string();
    let process = format!("in use by another Weir (process {})", std::process::id());
    assert!(error.contains(&process) && error.contains(&home.path().display().to_string()), "{error}");
    drop(folder);
    open(home.path());
}

#[test]
fn damage_costs_the_line_that_it_is_in() {
    let good = ["a", "b", "c"].map(|name| record::line(&service(name), now(), &states(&service(name), 1)).unwrap());
    let whole = record::file(good.iter(), now()).unwrap();
    assert_eq!(record::read(whole.as_bytes()).1, []);
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone().into_bytes();
        change(&mut bytes);
        let (services, damages) = record::read(&bytes);
        let names: Vec<String> = services.into_iter().map(|(service, ..)| service.name).collect();
        (names.concat(), damages.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let said = |names: &str, damages: &str| (names.to_owned(), damages.to_owned());
    let at = |word: &str| whole.find(word).unwrap();

    let flipped = damaged(&|bytes| bytes[at("rule-0")] = b'R');
    assert_eq!(flipped, said("bc", "line 2 (service shop/a): the checksum does not match"));
    let garbage = damaged(&|bytes| bytes[at(&good[1])..][..good[1].len() - 1].fill(0xff));
    assert_eq!(garbage, said("ac", "line 3: the line does not begin with a checksum"));
    let cut = damaged(&|bytes| bytes.truncate(at(&good[2]) + 40));
    assert_eq!(cut, said("ab", "line 4: the line is cut off"));
    let shorter = damaged(&|bytes| bytes.truncate(at(&good[2])));
    assert_eq!(shorter, said("ab", "the file: 3 services were written and 2 are here: the file was cut or added to"));
    assert_eq!(damaged(&|bytes| bytes.clear()), said("", "the file: empty"));
    let (names, reason) = damaged(&|bytes| bytes.fill(0));
    assert!(names.is_empty() && reason.contains("line 1 does not say what the file is"), "{reason}");
    let newer = whole.replacen("\"format\":1", "\"format\":2", 1);
    let json = newer.lines().next().unwrap().split_once(' ').unwrap().1;
    let newer = format!("{:016x} {json}\n", xxhash_rust::xxh3::xxh3_64(json.as_bytes()));
    let (services, damages) = record::read(newer.as_bytes());
    assert!(services.is_empty());
    assert_eq!(damages[0].to_string(), "the file: format 2; this version of Weir reads format 1");
}

#[test]
fn a_word_of_another_version_costs_the_rule_that_it_is_in() {
    let line = record::line(&service("a"), now(), &states(&service("a"), 2)).unwrap();
    let json = line.trim_end().split_once(' ').unwrap().1;
    let json =
        json.replacen("Limiting", "Dreaming", 1).replace("\"rule\":\"rule-1\"", "\"mood\":1,\"rule\":\"rule-1\"");
    let newer = format!("{:016x} {json}\n", xxhash_rust::xxh3::xxh3_64(json.as_bytes()));
    let (services, damages) = record::read(record::file([newer].iter(), now()).unwrap().as_bytes());
    let rules: Vec<_> = services[0].2.keys().map(|key| key.rule.as_str()).collect();
    assert_eq!((rules, damages.len()), (vec!["rule-1"], 1));
    let said = damages[0].to_string();
    assert!(
        said.starts_with("line 2 (service shop/a): a rule, by another version of Weir: unknown variant `Dreaming`"),
        "{said}"
    );
}

#[test]
fn a_damaged_file_is_copied_aside_and_written_anew() {
    let home = written(&["cart"]);
    let (path, bytes) = files(home.path()).pop_first().unwrap();
    let half = &bytes[..bytes.len() / 2];
    std::fs::write(&path, half).unwrap();
    let (mut folder, kept) = open(home.path());
    assert!(kept.decisions.is_empty());
    assert_eq!(kept.damaged.keys().collect::<Vec<_>>(), [&path]);
    folder.write(now()).unwrap();
    drop(folder);
    let left = files(home.path());
    assert_eq!(left.values().collect::<Vec<_>>(), [half], "{left:?}");
    let aside = left.keys().next().unwrap().display().to_string();
    assert!(aside.ends_with(".jsonl.damaged-1767348000"), "{aside}");
    assert!(open(home.path()).1.damaged.is_empty(), "said once");
}

#[test]
fn a_file_that_is_no_file_costs_only_itself() {
    let home = written(&["cart"]);
    let taken = files(home.path()).into_keys().next().unwrap();
    let other = if taken.ends_with("00.jsonl") { "01.jsonl" } else { "00.jsonl" };
    std::fs::create_dir(home.path().join("decisions").join(other)).unwrap();
    let (mut folder, kept) = open(home.path());
    assert_eq!((kept.decisions.len(), kept.damaged.len()), (1, 1));
    folder.write(now()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_said_at_once() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Folder::open(&file.join("state"), now()).unwrap_err();
    assert!(error.to_string().contains("file/state/decisions cannot be created"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        record::read(&bytes);
        let line = record::line(&service("a"), now(), &states(&service("a"), 1)).unwrap();
        let mut whole = record::file([line].iter(), now()).unwrap().into_bytes();
        let at = at.index(whole.len());
        let differs = whole[at] != to;
        whole[at] = to;
        let (services, damages) = record::read(&whole);
        prop_assert_eq!(damages.is_empty(), !differs);
        prop_assert_eq!(services.len(), usize::from(!differs));
    }
}

#[tokio::test]
async fn a_thousand_news_are_a_write_a_second_and_the_last_is_never_lost() {
    let home = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let (keeper, writing) = spawn(open(home.path()).0, metrics.clone());
    let cart = service("cart");
    for rules in 1..=1000 {
        keeper.keep(&cart, told(rules % 10).into(), now());
        if rules % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    keeper.keep(&cart, told(7).into(), now());
    drop(keeper);
    writing.await.unwrap();
    let (_, kept) = open(home.path());
    assert_eq!(kept.decisions[&cart].1, states(&cart, 7));
    let writes = metrics.writes();
    assert!((1..=5).contains(&writes), "{writes} writes");
}
