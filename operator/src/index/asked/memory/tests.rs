use super::*;
use crate::{
    index::{Change, ObjectKey, ObjectKind, asked::Loaded},
    tests::changes,
};

const OBJECTS: &str = "apiVersion: v1
kind: Pod
metadata: {name: page-0, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: page-1, namespace: shop}
---
apiVersion: weir.dev/v1alpha1
kind: LazyConfig
metadata: {name: shop, namespace: shop}
spec: {prewarm: true, never: [secret]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: secret, namespace: shop}
spec: {ports: [{port: 80}]}
";

fn service(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn key(name: &str) -> DestinationKey {
    DestinationKey { service: service(name), port: 80 }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn remembered(name: &str, second: i64) -> Remembered {
    Remembered { to: key(name), why: Why::OnDemand, since: at(second), used: at(second) }
}

/// With `cart`, which the first pod has asked for.
fn mesh() -> Index {
    let mut index = Index::default();
    for change in changes(OBJECTS) {
        index.apply(change);
    }
    let _ = index.starts(&service("page"), "page-1");
    index.ask(&service("page"), "page-0", "cart", Why::OnDemand, at(1)).expect("it is lazy");
    index
}

fn loaded(index: &Index, pod: &str) -> Loaded {
    let lazy = index.lazy(&service("page"), pod).expect("it is lazy").clone();
    index.loaded(&service("page"), pod, &lazy)
}

fn has(index: &Index, pod: &str) -> bool {
    loaded(index, pod).destinations.contains_key(&key("cart"))
}

/// Forgets what was idle for ten seconds, where the first pod is heard, and the second if `both`.
fn look(index: &mut Index, second: i64, both: bool) -> Dirty {
    let page = service("page");
    index.remember_use(&page, at(second), |_| None);
    index.forget_remembered(&page, at(second), SignedDuration::from_secs(10), true, |pod| both || pod == "page-0")
}

#[test]
fn what_one_pod_calls_is_there_for_the_others_and_outlives_it() {
    let mut index = mesh();
    assert!(has(&index, "page-0") && has(&index, "page-1"));
    index.forget_asks_of(&service("page"), |pod| pod == "page-1");
    assert!(has(&index, "page-1"), "who had asked for it is gone");
    let told = index.take_memories(at(2));
    assert_eq!(told, [(service("page"), Some(Arc::new(vec![remembered("cart", 1)])))].into());
    assert!(index.take_memories(at(3)).is_empty(), "once");
    // Its callers are built again when it changes, though nobody has asked for it now.
    let gone = index.apply(Change::Delete(ObjectKey {
        kind: ObjectKind::Service,
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
    }));
    assert!(gone.services.contains(&service("page")));
    assert!(!has(&index, "page-1"));
}

#[test]
fn another_run_goes_on_from_what_was_kept_and_knows_no_more_than_may_be_had() {
    let mut index = mesh();
    let mut other = Index::default();
    for change in changes(OBJECTS) {
        other.apply(change);
    }
    let kept = [remembered("cart", 1), remembered("secret", 1)];
    assert!(other.recall(&service("page"), &kept).services.contains(&service("page")));
    assert!(other.take_memories(at(2)).is_empty(), "whoever keeps it knows");
    let all: Vec<_> = loaded(&other, "page-1").destinations.into_keys().collect();
    assert_eq!(all, [key("cart")]);
    // What its pods have beside it stays, and is told.
    assert!(index.recall(&service("page"), &[remembered("other", 1)]).services.contains(&service("page")));
    let known: Vec<_> = index.memory(&service("page")).map(|(key, _)| key.clone()).collect();
    assert_eq!(known, [key("cart"), key("other")]);
    assert_eq!(index.take_memories(at(2)).len(), 1);
}

#[test]
fn what_no_pod_has_called_leaves_all_of_them_and_what_one_may_call_unseen_stays() {
    let mut index = mesh();
    look(&mut index, 2, true);
    look(&mut index, 11, true);
    assert!(has(&index, "page-0"), "it was heard of for nine seconds");
    index.remember_use(&service("page"), at(11), |_| Some(at(11)));
    look(&mut index, 20, true);
    assert!(has(&index, "page-0"), "it was called");
    // A pod of another replica has asked for it, too: nobody here hears it.
    index.ask(&service("page"), "page-1", "cart", Why::OnDemand, at(1)).expect("it is lazy");
    look(&mut index, 40, false);
    assert!(has(&index, "page-0"));
    assert!(look(&mut index, 41, true).services.contains(&service("page")));
    for pod in ["page-0", "page-1"] {
        let Loaded { destinations, leaving, .. } = loaded(&index, pod);
        assert!(destinations.is_empty() && leaving.contains(&key("cart")), "{pod} has its cluster still");
    }
    assert_eq!(index.take_memories(at(42)), [(service("page"), None)].into());
    assert_eq!(index.forgotten(), 2);
}

#[test]
fn a_workload_that_was_away_for_long_has_its_time_again() {
    let mut index = mesh();
    look(&mut index, 2, true);
    index.forget_asks_of(&service("page"), |_| false);
    let _ = index.starts(&service("page"), "page-0");
    look(&mut index, 100_000, true);
    assert!(has(&index, "page-0"));
    look(&mut index, 100_010, true);
    assert!(!has(&index, "page-0"));
}

#[test]
fn of_too_many_the_one_called_least_lately_goes() {
    let mut index = mesh();
    index.forget_asks_of(&service("page"), |_| false);
    let many: Vec<_> = (0..MOST_REMEMBERED).map(|n| remembered(&format!("s{n}"), 2)).collect();
    let _ = index.recall(&service("page"), &many);
    assert!(!index.remembers(&service("page"), &key("cart")));
    index.ask(&service("page"), "page-0", "cart", Why::OnDemand, at(3)).expect("it is lazy");
    assert_eq!(index.memory(&service("page")).count(), MOST_REMEMBERED);
    assert!(index.remembers(&service("page"), &key("cart")));
}

#[test]
fn that_something_is_still_called_is_told_after_minutes() {
    let mut index = mesh();
    let page = service("page");
    index.take_memories(at(1));
    for (second, is_news) in [(300, false), (599, false), (700, true), (800, false)] {
        index.remember_use(&page, at(second), |_| Some(at(second)));
        assert_eq!(!index.take_memories(at(second)).is_empty(), is_news, "{second}");
    }
}

#[test]
fn a_service_that_is_gone_is_not_remembered_and_one_that_never_came_not_for_ever() {
    let mut index = mesh();
    let _ = index.recall(&service("old"), &[remembered("cart", 1)]);
    let _ = index.recall(&service("new"), &[remembered("cart", 9)]);
    index.forget_unseen_memories(at(5));
    assert!(!index.remembers(&service("old"), &key("cart")) && index.remembers(&service("new"), &key("cart")));
    assert_eq!(index.take_memories(at(9)).get(&service("old")), Some(&None));
    let page = "apiVersion: v1\nkind: Service\nmetadata: {name: page, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    for change in changes(page) {
        let Change::Apply { key, .. } = &change else { continue };
        let gone = Change::Delete(key.clone());
        index.apply(change);
        index.apply(gone);
    }
    assert!(!index.remembers(&service("page"), &key("cart")), "though a pod has it still");
}
