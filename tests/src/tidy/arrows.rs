//! Which crate and which room may use which: the arrows of ARCHITECTURE.md.

use std::collections::BTreeSet;

use super::{
    File, is_test, line_at,
    source::{Token, tokens},
};

/// What a room of `operator/src` may use.
struct Room {
    name: &'static str,
    /// Other rooms; `xds::proxies` allows that one module of `xds`.
    rooms: &'static [&'static str],
    /// Those of [`WATCHED`] that it may use.
    crates: &'static [&'static str],
}

/// Crates that not every room may use.
const WATCHED: [&str; 6] = ["crds", "limiter", "k8s_openapi", "kube", "tokio", "envoy_types"];

/// A new arrow is an entry here, a line in ARCHITECTURE.md, and an ADR that says why.
const ROOMS: &[Room] = &[
    Room { name: "watch", rooms: &["index"], crates: &["crds", "limiter", "k8s_openapi", "kube", "tokio"] },
    Room { name: "index", rooms: &["intent"], crates: &["crds", "k8s_openapi", "limiter"] },
    Room { name: "translate", rooms: &["index", "intent"], crates: &["limiter"] },
    Room { name: "intent", rooms: &[], crates: &["limiter"] },
    Room { name: "xds", rooms: &["codec", "identity", "intent"], crates: &["limiter", "tokio", "envoy_types"] },
    Room {
        name: "metrics",
        rooms: &["identity", "intent", "xds::names", "xds::node", "xds::table"],
        crates: &["kube", "limiter", "tokio"],
    },
    Room {
        name: "checkpoint",
        rooms: &["index::asked", "index::scope", "intent", "translate"],
        crates: &["crds", "k8s_openapi", "kube", "limiter", "tokio"],
    },
    Room {
        name: "replicas",
        rooms: &[
            "checkpoint",
            "codec",
            "identity",
            "index::asked",
            "intent",
            "metrics",
            "translate",
            "watch::kubernetes",
            "xds::proxies",
        ],
        crates: &["k8s_openapi", "kube", "tokio"],
    },
    Room {
        name: "status",
        rooms: &["build", "index", "translate", "intent", "metrics", "watch::live", "xds"],
        crates: &["crds", "limiter", "k8s_openapi", "kube", "tokio"],
    },
    Room {
        name: "admission",
        rooms: &[
            "build",
            "caret",
            "identity",
            "index",
            "inject",
            "intent",
            "metrics",
            "translate::split",
            "watch::decode",
        ],
        crates: &["limiter", "k8s_openapi", "kube", "tokio"],
    },
    Room { name: "identity", rooms: &["watch::kubernetes", "watch::live"], crates: &["k8s_openapi", "kube", "tokio"] },
    Room { name: "inject", rooms: &["identity", "xds"], crates: &["limiter"] },
    Room { name: "codec", rooms: &[], crates: &[] },
    Room { name: "caret", rooms: &[], crates: &["limiter"] },
];

/// They put the rooms together, so they may use anything.
const WIRING: [&str; 9] = ["lib", "main", "app", "args", "admin", "build", "command", "telemetry", "demo"];

/// Modules that are plain functions of values: no tokio, no await, no clock.
const PURE: [&[&str]; 26] = [
    &["admission", "pods"],
    &["admission", "review"],
    &["admission", "warnings"],
    &["caret"],
    &["codec"],
    &["index"],
    &["inject"],
    &["translate"],
    &["identity", "caller"],
    &["identity", "certificate"],
    &["identity", "token"],
    &["intent"],
    &["replicas", "election"],
    &["metrics", "kubernetes", "usage"],
    &["metrics", "logs", "entries"],
    &["metrics", "stream", "destinations"],
    &["metrics", "stream", "families"],
    &["metrics", "stream", "window"],
    &["xds", "resources"],
    &["xds", "subscription"],
    &["xds", "session"],
    &["xds", "sotw"],
    &["xds", "names"],
    &["checkpoint", "record"],
    &["status", "writer", "plan"],
    &["status", "writer", "events"],
];

/// Arrows between the rooms of `operator/src` that the table above does not have, and rooms it does not know.
/// Test code may reach anything.
#[must_use]
pub fn rooms(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut unknown = BTreeSet::new();
    for file in files {
        let Some(inside) = file.path.strip_prefix("operator/src/").and_then(|path| path.strip_suffix(".rs")) else {
            continue;
        };
        let module: Vec<&str> = inside.split('/').collect();
        if is_test(&file.path) || WIRING.contains(&module[0]) {
            continue;
        }
        let Some(room) = ROOMS.iter().find(|room| room.name == module[0]) else {
            unknown.insert(module[0]);
            continue;
        };
        check_file(file, room, &module, &mut findings);
    }
    findings.extend(unknown.into_iter().map(|name| {
        format!(
            "operator/src/{name}: unknown room; say in tests/src/tidy/arrows.rs and ARCHITECTURE.md what it may use"
        )
    }));
    findings
}

fn check_file(file: &File, room: &Room, module: &[&str], findings: &mut Vec<String>) {
    let pure = PURE.iter().any(|prefix| module.starts_with(prefix));
    let tokens = tokens(&file.text);
    let mut report = |at: usize, what: String| {
        findings.push(format!("{}:{}: {what}", file.path, line_at(&file.text, at)));
    };
    for path in paths(&tokens, module) {
        let [first, second] = path.names;
        if path.inside {
            let allowed = first == room.name
                || room.rooms.iter().any(|allowed| match allowed.split_once("::") {
                    Some(allowed) => allowed == (first, second),
                    None => *allowed == first,
                });
            if !allowed {
                report(path.at, format!("{} may not use the room {first}", room.name));
            }
        } else if WATCHED.contains(&first) && (!room.crates.contains(&first) || (pure && first == "tokio")) {
            report(path.at, format!("{} may not use the crate {first}", module.join("::")));
        }
        if pure && !path.inside && path.last == "now" {
            report(path.at, format!("{} is pure: the time is an argument", module.join("::")));
        }
    }
    if pure {
        for pair in tokens.windows(2).filter(|pair| pair[0].text == "." && pair[1].text == "await") {
            report(pair[0].at, format!("{} is pure: it does not await", module.join("::")));
        }
    }
}

/// A path in the code, resolved to its beginning.
struct CodePath<'a> {
    /// It begins in this crate (`crate::`, `super::`), rather than with a crate's or a local name.
    inside: bool,
    /// The first two names; empty where there are fewer.
    names: [&'a str; 2],
    /// The last name.
    last: &'a str,
    at: usize,
}

/// Every path in the file of `module`, groups in braces taken apart; what stands in an inline `mod tests` is left out.
fn paths<'a>(tokens: &[Token<'a>], module: &[&'a str]) -> Vec<CodePath<'a>> {
    let mut found = Vec::new();
    // Inline modules around the current token: name, and the depth of braces outside.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let text = tokens[at].text;
        match text {
            "mod" if at + 2 < tokens.len() && tokens[at + 2].text == "{" => {
                inline.push((tokens[at + 1].text, depth));
                depth += 1;
                at += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, outside)| *outside == depth);
            }
            _ => {}
        }
        let starts_path = is_name(text) && tokens.get(at + 1).is_some_and(|next| next.text == "::");
        if !starts_path {
            at += 1;
            continue;
        }
        let mut here = module.to_vec();
        here.extend(inline.iter().map(|(name, _)| *name));
        let mut tree = Vec::new();
        at = path_tree(tokens, at, &mut Vec::new(), &mut tree);
        if !inline.iter().any(|(name, _)| *name == "tests") {
            found.extend(tree.iter().filter_map(|names| resolve(names, &here)));
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the path at `at` with its groups; gives the token after it.
fn path_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    before: &mut Vec<Token<'a>>,
    found: &mut Vec<Vec<Token<'a>>>,
) -> usize {
    let length = before.len();
    while let Some(token) = tokens.get(at) {
        if is_name(token.text) || token.text == "*" {
            before.push(*token);
            at += 1;
            if tokens.get(at).is_some_and(|next| next.text == "::") {
                at += 1;
                continue;
            }
        } else if token.text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                let began = at;
                at = path_tree(tokens, at, before, found);
                // `as name`, commas, and anything unexpected: go on to the next element.
                while tokens.get(at).is_some_and(|token| !matches!(token.text, "," | "}")) {
                    at += 1;
                }
                if tokens.get(at).is_some_and(|token| token.text == ",") {
                    at += 1;
                }
                debug_assert!(at > began, "every element takes a token");
            }
            before.truncate(length);
            return at + 1;
        }
        break;
    }
    if before.len() > length {
        found.push(before.clone());
    }
    before.truncate(length);
    at
}

fn resolve<'a>(names: &[Token<'a>], here: &[&'a str]) -> Option<CodePath<'a>> {
    let first = names.first()?;
    let mut path: Vec<&str> = Vec::new();
    let mut rest = names;
    let inside = matches!(first.text, "crate" | "super" | "self");
    if inside {
        if first.text != "crate" {
            path.extend(here);
        }
        while let Some(token) = rest.first() {
            match token.text {
                "super" => drop(path.pop()),
                "crate" | "self" => {}
                _ => break,
            }
            rest = &rest[1..];
        }
    }
    path.extend(rest.iter().map(|token| token.text));
    let name = |at: usize| path.get(at).copied().unwrap_or_default();
    Some(CodePath { inside, names: [name(0), name(1)], last: path.last()?, at: first.at })
}

/// The crates in the order of their arrows: each may depend only on those before it.
const CRATES: [&str; 4] = ["crds", "limiter", "operator", "testkit"];

/// What the two inner crates must not even be able to reach: runtimes, clients, Envoy.
const OUTSIDE: [&str; 9] =
    ["tokio", "tonic", "hyper", "hyper-util", "axum", "envoy-types", "kube-client", "kube-runtime", "reqwest"];

/// Dependencies between the workspace's crates against `crds <- limiter <- operator <- tests`, and I/O in the inner ones.
/// `metadata` is what `cargo metadata --no-deps` prints.
#[must_use]
pub fn crates(metadata: &serde_json::Value) -> Vec<String> {
    let mut findings = Vec::new();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    if packages.is_empty() {
        findings.push("cargo metadata names no package".to_owned());
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(rank) = CRATES.iter().position(|known| *known == name) else {
            findings.push(format!(
                "{name}: unknown crate; say in tests/src/tidy/arrows.rs and ARCHITECTURE.md where it stands"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().map_or(&[][..], Vec::as_slice) {
            let on = dependency["name"].as_str().unwrap_or_default();
            if CRATES.iter().position(|known| *known == on).is_some_and(|other| other >= rank) {
                findings.push(format!("{name} may not depend on {on}"));
            }
            if rank < 2 && (OUTSIDE.contains(&on) || (on == "kube" && name == "limiter")) {
                findings.push(format!("{name} knows no I/O: it may not depend on {on}"));
            }
            let features = dependency["features"].as_array().map_or(&[][..], Vec::as_slice);
            if on == "kube" && rank < 2 && features.iter().any(|feature| feature == "client" || feature == "runtime") {
                findings.push(format!("{name} knows no I/O: kube without client and runtime"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{File, crates, rooms};

    fn finding(path: &str, text: &str) -> Vec<String> {
        rooms(&[File::new(path, text)])
    }

    #[test]
    fn allows_the_arrows_of_the_pipeline() {
        for (path, text) in [
            ("operator/src/watch/files.rs", "use crate::index::Change;\nuse tokio::fs;"),
            (
                "operator/src/translate/route.rs",
                "use super::Report;\nuse crate::{index::model, intent::{Intent, Route}};\nuse limiter::quota;",
            ),
            ("operator/src/xds/server.rs", "use super::{table, super::intent::Intent};\nuse tokio::sync::watch;"),
            ("operator/src/status/conditions.rs", "use crate::xds::proxies::Proxies;"),
            ("operator/src/app.rs", "use crate::{watch, xds, status, anything};"),
            (
                "operator/src/index.rs",
                "//! See crate::xds.\nconst A: &str = \"crate::xds\";\n#[cfg(test)]\nmod tests { use crate::xds; }",
            ),
            ("operator/src/index/tests.rs", "use crate::watch::files;"),
        ] {
            assert_eq!(finding(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn refuses_an_arrow_against_the_stream() {
        for (path, text, what) in [
            (
                "operator/src/xds/table.rs",
                "\nuse crate::index::model;",
                "xds/table.rs:2: xds may not use the room index",
            ),
            ("operator/src/xds/table.rs", "use crate::{intent, status::x};", "xds may not use the room status"),
            (
                "operator/src/xds/resources/route.rs",
                "use super::super::super::watch::A;",
                "xds may not use the room watch",
            ),
            ("operator/src/intent.rs", "fn a(b: crate::index::Model) {}", "intent may not use the room index"),
            ("operator/src/intent.rs", "mod a { use super::super::xds::b; }", "intent may not use the room xds"),
            ("operator/src/status/writer.rs", "use crate::watch::files::Folder;", "status may not use the room watch"),
            ("operator/src/xds/server.rs", "use crds::SmartLimiter;", "xds::server may not use the crate crds"),
            ("operator/src/intent.rs", "use envoy_types::pb;", "intent may not use the crate envoy_types"),
            ("operator/src/xds/names.rs", "fn a() { kube::b() }", "xds::names may not use the crate kube"),
            ("operator/src/translate.rs", "use {std::fmt, tokio::sync};", "translate may not use the crate tokio"),
            ("operator/src/xds/subscription.rs", "use tokio::time;", "xds::subscription may not use the crate tokio"),
            ("operator/src/index.rs", "fn a() { b(jiff::Timestamp::now()) }", "index is pure: the time is an argument"),
            ("operator/src/index.rs", "async fn a() { b().await }", "index is pure: it does not await"),
            ("operator/src/cache/lru.rs", "", "operator/src/cache: unknown room"),
        ] {
            let found = finding(path, text);
            assert!(found.len() == 1 && found[0].contains(what), "{path} {text}: {found:?}");
        }
    }

    fn package(name: &str, dependencies: &[&str]) -> serde_json::Value {
        let dependencies: Vec<_> = dependencies.iter().map(|on| json!({"name": on, "features": []})).collect();
        json!({"name": name, "dependencies": dependencies})
    }

    #[test]
    fn refuses_a_crate_that_depends_on_a_later_one() {
        let good = json!({"packages": [package("crds", &["kube"]), package("limiter", &["crds"]), package("testkit", &["operator", "tokio"])]});
        assert_eq!(crates(&good), Vec::<String>::new());
        let bad = json!({"packages": [package("limiter", &["operator", "tokio"]), package("crds", &["limiter"]), package("extra", &[])]});
        assert_eq!(crates(&bad).len(), 4, "{:?}", crates(&bad));
        let client =
            json!({"packages": [{"name": "crds", "dependencies": [{"name": "kube", "features": ["client"]}]}]});
        assert_eq!(crates(&client).len(), 1);
        assert_eq!(crates(&json!({})).len(), 1);
    }
}
