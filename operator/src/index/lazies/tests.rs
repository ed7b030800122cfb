use std::collections::BTreeSet;

use limiter::policy::tenants::Tenants;

use super::*;
use crate::{
    index::{Change, ObjectKind},
    watch::decode,
};

/// Two pods of one service each in `shop`, one in `till`; those of `shop` differ in their labels.
const MESH: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: till, namespace: till}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-0, namespace: shop, labels: {app: cart, tier: back}}, spec: {containers: []}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, spec: {containers: []}}
";

fn slice(namespace: &str, service: &str, address: u8) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\n\
         endpoints: [{{addresses: [127.0.3.{address}], targetRef: {{kind: Pod, name: {service}-0}}}}]\n"
    )
}

/// A configuration of this age in days; 0: of none.
fn lazy(namespace: &str, name: &str, age: u8, spec: &str) -> String {
    let created =
        if age > 0 { format!(", creationTimestamp: '2026-01-{:02}T00:00:00Z'", 31 - age) } else { String::new() };
    format!(
        "{{apiVersion: weir.dev/v1alpha1, kind: LazyConfig, metadata: {{name: {name}, namespace: {namespace}{created}}}, spec: {{{spec}}}}}"
    )
}

const CART: &str = "workloadSelector: {matchLabels: {app: cart}}";

struct Mesh(Index);

impl Mesh {
    fn new() -> Self {
        let mut mesh = Self(Index::of(Tenants { mesh: Some("weir-system".to_owned()), ..Tenants::default() }));
        let slices = [slice("shop", "cart", 1), slice("shop", "web", 2), slice("till", "till", 3)].join("---\n");
        mesh.apply(&format!("{MESH}---\n{slices}"));
        mesh
    }

    /// The services that are touched.
    fn apply(&mut self, text: &str) -> BTreeSet<String> {
        let file = decode::decode(text.as_bytes()).expect("readable");
        assert_eq!(file.problems, [], "{text}");
        let mut touched = BTreeSet::new();
        for decoded in file.objects {
            let (key, object, origin) = (decoded.key, decoded.object, format!("a.yaml:{}", decoded.line));
            touched.extend(self.0.apply(Change::Apply { key, origin, object }).services);
        }
        touched.iter().map(ToString::to_string).collect()
    }

    fn delete(&mut self, namespace: &str, name: &str) -> BTreeSet<String> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let dirty = self.0.apply(Change::Delete(ObjectKey { kind: ObjectKind::Lazy, namespace, name }));
        dirty.services.iter().map(ToString::to_string).collect()
    }

    /// What holds for the pods of cart, web and till.
    fn holding(&self) -> [&str; 3] {
        [("shop", "cart"), ("shop", "web"), ("till", "till")].map(|(namespace, name)| {
            let service = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
            self.0.lazy(&service, &format!("{name}-0")).map_or("", |lazy| lazy.key.name.as_str())
        })
    }

    fn standing(&self, namespace: &str, name: &str) -> Standing {
        let key = LazyKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.0.standing(self.0.lazy_config(&key).unwrap().accepted.as_ref().unwrap())
    }
}

fn names(touched: &[&str]) -> BTreeSet<String> {
    touched.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_narrowest_holds_and_only_those_are_touched_for_whom_something_else_does() {
    let mut mesh = Mesh::new();
    assert_eq!(mesh.holding(), ["", "", ""]);
    assert_eq!(mesh.apply(&lazy("shop", "all", 5, "")), names(&["shop/cart", "shop/web"]));
    assert_eq!(mesh.holding(), ["all", "all", ""]);
    assert_eq!(mesh.apply(&lazy("weir-system", "mesh", 9, "")), names(&["till/till"]), "narrower ones hold elsewhere");
    assert_eq!(mesh.holding(), ["all", "all", "mesh"]);
    assert_eq!(mesh.apply(&lazy("shop", "cart", 1, CART)), names(&["shop/cart"]));
    assert_eq!(mesh.holding(), ["cart", "all", "mesh"]);
    let pods = |names: &[&str]| names.iter().map(|name| ("shop".to_owned(), (*name).to_owned())).collect::<Vec<_>>();
    assert_eq!(mesh.standing("shop", "cart"), Standing { pods: pods(&["cart-0"]), ..Standing::default() });
    assert_eq!(mesh.standing("shop", "all"), Standing { pods: pods(&["web-0"]), narrower: 1, ..Standing::default() });
    let of_mesh = mesh.standing("weir-system", "mesh");
    assert_eq!((of_mesh.pods, of_mesh.narrower), (vec![("till".to_owned(), "till-0".to_owned())], 2));
    assert_eq!(mesh.delete("shop", "all"), names(&["shop/web"]));
    assert_eq!(mesh.holding(), ["cart", "mesh", "mesh"]);
    assert_eq!(mesh.delete("weir-system", "mesh"), names(&["shop/web", "till/till"]));
    assert_eq!(mesh.holding(), ["cart", "", ""]);
    assert_eq!(mesh.delete("weir-system", "mesh"), names(&[]));
}

#[test]
fn a_selector_of_the_meshs_namespace_is_for_that_namespace() {
    let mut mesh = Mesh::new();
    assert_eq!(mesh.apply(&lazy("weir-system", "cart", 5, CART)), names(&[]));
    assert_eq!(mesh.holding(), ["", "", ""]);
}

#[test]
fn of_two_of_one_scope_the_older_holds_and_of_two_as_old_the_first_by_name() {
    let mut mesh = Mesh::new();
    mesh.apply(&lazy("shop", "b", 5, CART));
    assert_eq!(mesh.apply(&lazy("shop", "a", 5, CART)), names(&["shop/cart"]));
    assert_eq!(mesh.holding(), ["a", "", ""]);
    assert_eq!(mesh.apply(&lazy("shop", "0a", 0, CART)), names(&[]), "one without an age is younger than all");
    mesh.apply(&lazy("shop", "old", 9, "workloadSelector: {matchLabels: {tier: back}}"));
    assert_eq!(mesh.holding(), ["old", "", ""]);
    let older = |name: &str| [(LazyKey { namespace: "shop".to_owned(), name: name.to_owned() }, 1)].into();
    assert_eq!(mesh.standing("shop", "a"), Standing { older: older("old"), ..Standing::default() });
    assert_eq!(mesh.delete("shop", "old"), names(&["shop/cart"]));
    assert_eq!(mesh.standing("shop", "0a"), Standing { older: older("a"), ..Standing::default() });
}

#[test]
fn labels_of_pods_decide_when_they_change() {
    let mut mesh = Mesh::new();
    mesh.apply(&lazy("shop", "cart", 5, CART));
    let pod = |labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web-0, namespace: shop, labels: {{{labels}}}}}, spec: {{containers: []}}}}"
        )
    };
    assert_eq!(mesh.apply(&pod("app: cart")), names(&["shop/web"]));
    assert_eq!(mesh.holding(), ["cart", "cart", ""]);
    assert_eq!(mesh.apply(&pod("app: web")), names(&["shop/web"]));
    assert_eq!(mesh.holding(), ["cart", "", ""]);
}

#[test]
fn a_bad_text_leaves_what_was_accepted_in_force_and_is_kept_with_its_problems() {
    let mut mesh = Mesh::new();
    mesh.apply(&lazy("shop", "cart", 5, &format!("{CART}, hold: 3m")));
    assert_eq!(mesh.apply(&lazy("shop", "cart", 5, &format!("{CART}, hold: 3y"))), names(&[]));
    let key = LazyKey { namespace: "shop".to_owned(), name: "cart".to_owned() };
    let entry = mesh.0.lazy_config(&key).unwrap();
    assert_eq!((entry.generation, entry.problems.len(), entry.problems[0].field.as_str()), (2, 1, "spec.hold"));
    assert_eq!(entry.accepted.as_ref().unwrap().hold.as_secs(), 180);
    assert_eq!(mesh.holding(), ["cart", "", ""]);
    assert_eq!(mesh.apply(&lazy("shop", "cart", 5, "lod: OnDemand")), names(&[]));
    let entry = mesh.0.lazy_config(&key).unwrap();
    assert_eq!(entry.problems[0].help.as_deref(), Some("did you mean `load`?"));
    assert_eq!(mesh.apply(&lazy("shop", "cart", 5, &format!("{CART}, hold: 4m"))), names(&["shop/cart"]));
    assert_eq!(mesh.apply(&lazy("shop", "cart", 5, &format!("{CART}, hold: 4m"))), names(&[]), "the same again");
}

#[test]
fn rivals_are_older_ones_of_the_same_scope_with_a_pod_in_common() {
    let mut mesh = Mesh::new();
    mesh.apply(&lazy("shop", "old", 9, "workloadSelector: {matchLabels: {tier: back}}"));
    mesh.apply(&lazy("shop", "web", 9, "workloadSelector: {matchLabels: {app: web}}"));
    mesh.apply(&lazy("shop", "all", 9, ""));
    let rivals = |mesh: &Mesh, text: &str| -> Vec<String> {
        let file = decode::decode(text.as_bytes()).unwrap();
        let crate::index::Object::Lazy { lazy: Some(lazy), .. } = &file.objects[0].object else { panic!("{text}") };
        mesh.0.rivals(lazy).into_iter().map(|key| key.name.clone()).collect()
    };
    assert_eq!(rivals(&mesh, &lazy("shop", "new", 1, CART)), ["old"]);
    assert_eq!(rivals(&mesh, &lazy("shop", "new", 20, CART)), [""; 0], "it would be the older one");
    assert_eq!(rivals(&mesh, &lazy("shop", "new", 1, "")), ["all"]);
    assert_eq!(rivals(&mesh, &lazy("till", "new", 1, "")), [""; 0]);
    assert_eq!(rivals(&mesh, &lazy("shop", "old", 1, CART)), [""; 0], "itself, as it was");
}
