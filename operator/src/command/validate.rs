//! `weir validate`: every mistake with its file, line, field and mend.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
};

use annotate_snippets::Renderer;
use limiter::problem::{Problem, Reason};

use super::{files, say};
use crate::{
    admission,
    args::ValidateArgs,
    caret,
    index::{Change, Index, Object, ObjectKind, ServiceView},
    status,
    watch::decode,
};

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Line of the field, or of the object.
    pub line: Option<usize>,
    /// The object, unless the file itself is meant.
    pub object: Option<String>,
    /// What is wrong.
    pub problem: Problem,
    /// Worth knowing, but not wrong.
    pub note: bool,
}

/// Finds every mistake in the files and folders, and how many objects they hold.
///
/// # Errors
/// When a path cannot be read.
pub fn findings(paths: &[PathBuf]) -> anyhow::Result<(Vec<Finding>, usize)> {
    let mut found = Vec::new();
    let mut index = Index::default();
    let mut seen = BTreeSet::new();
    let mut objects = Vec::new();
    for input in files::read(paths)? {
        let file = match input.result {
            Ok(file) => file,
            Err(problem) => {
                found.push(Finding { path: input.path, line: None, object: None, problem, note: false });
                continue;
            }
        };
        for problem in file.problems {
            found.push(Finding { path: input.path.clone(), line: None, object: None, problem, note: false });
        }
        for (line, kind) in file.ignored {
            let problem = note("kind", format!("Weir does not read {kind}"), None);
            found.push(Finding { path: input.path.clone(), line: Some(line), object: None, problem, note: true });
        }
        for decoded in file.objects {
            let name = decoded.key.to_string();
            if !seen.insert(decoded.key.clone()) {
                let message = format!("{name} stands twice in these files");
                let problem = note("metadata.name", message, Some("remove one, or give it another name".to_owned()));
                let line = Some(decoded.line);
                found.push(Finding { path: input.path.clone(), line, object: Some(name), problem, note: false });
                continue;
            }
            let problems = match &decoded.object {
                Object::Policy { problems, .. }
                | Object::Lazy { problems, .. }
                | Object::Split { problems, .. }
                | Object::Gateway(_, problems)
                | Object::Undecodable(problems) => problems,
                _ => &Vec::new(),
            };
            for problem in problems {
                let line = decode::field_line(&input.text, decoded.line, &problem.field).or(Some(decoded.line));
                let (object, problem) = (Some(name.clone()), problem.clone());
                found.push(Finding { path: input.path.clone(), line, object, problem, note: false });
            }
            let change = Change::Apply { key: decoded.key.clone(), origin: String::new(), object: decoded.object };
            index.apply(change);
            objects.push((input.path.clone(), decoded.line, decoded.key));
        }
    }
    found.extend(target_findings(&index, objects));
    Ok((found, seen.len()))
}

/// Targets that are missing. Without any Service among the files nothing can be told, and a note says so.
fn target_findings(index: &Index, objects: Vec<(PathBuf, usize, crate::index::ObjectKey)>) -> Vec<Finding> {
    let whole = index.service_keys().next().is_some();
    let mut found = Vec::new();
    let mut dangling: BTreeMap<_, Vec<Problem>> = BTreeMap::new();
    for (key, problem) in index.dangling() {
        dangling.entry(key).or_default().push(problem);
    }
    for (path, line, key) in objects {
        for problem in dangling.remove(&key).unwrap_or_default() {
            let object = Some(key.to_string());
            found.push(Finding { path: path.clone(), line: Some(line), object, problem, note: !whole });
        }
        if let Some(lazy) = key.lazy().and_then(|key| index.lazy_config(&key)?.newest.as_ref()).filter(|_| whole) {
            found.extend(admission::lazy_warnings(lazy, index).iter().map(|warning| {
                let (field, message) = warning.split_once(": ").unwrap_or(("spec", warning));
                let problem = note(field, message.to_owned(), None);
                Finding { path: path.clone(), line: Some(line), object: Some(key.to_string()), problem, note: true }
            }));
        }
        if let Some(split) = key.split().and_then(|key| index.split(&key)?.newest.as_ref()).filter(|_| whole) {
            found.extend(admission::split_warnings(split, index).into_iter().map(|(field, message)| {
                let (problem, object) = (note(field, message, None), Some(key.to_string()));
                Finding { path: path.clone(), line: Some(line), object, problem, note: true }
            }));
        }
        let ObjectKind::Policy(kind) = key.kind else { continue };
        let policy_key = limiter::policy::PolicyKey { kind, namespace: key.namespace.clone(), name: key.name.clone() };
        let Some(policy) = index.policy(&policy_key).and_then(|entry| entry.newest.as_ref()) else { continue };
        let targets = index.targets(policy);
        let mut say = |field: &str, message: String, help: Option<&str>, note_only: bool| {
            let problem = note(field, message, help.map(str::to_owned));
            let object = Some(key.to_string());
            found.push(Finding { path: path.clone(), line: Some(line), object, problem, note: note_only });
        };
        if targets.is_empty() && whole {
            say("spec.selector", "no Service of the namespace has these labels".to_owned(), None, false);
        }
        for target in targets {
            match index.service(&target) {
                None => {
                    let help = if whole {
                        "add its manifest, or name one that exists"
                    } else {
                        "pass its manifests too to have them checked"
                    };
                    say("spec.targetRefs", format!("Service {target} is not among these files"), Some(help), !whole);
                }
                Some(ServiceView { unfit: Some(unfit), .. }) => {
                    say("spec.targetRefs", format!("nothing can be limited on Service {target}: {unfit}"), None, false);
                }
                Some(view) if view.endpoints.is_empty() && view.selects => {
                    let help =
                        "a cluster finds them by the Service's selector; a folder of --config needs an EndpointSlice";
                    say("spec.targetRefs", format!("Service {target} has no endpoints here"), Some(help), true);
                }
                Some(view) if view.endpoints.is_empty() => {
                    let help = "add an EndpointSlice with the label kubernetes.io/service-name";
                    say("spec.targetRefs", format!("Service {target} has no endpoints"), Some(help), false);
                }
                Some(view) if view.enforcers.get(&policy.enforce_at).is_some_and(Vec::is_empty) => {
                    let (message, help) = status::nobody(policy.enforce_at);
                    say("spec.enforceAt", message.to_owned(), Some(help), false);
                }
                Some(_) => {}
            }
        }
    }
    found
}

fn note(field: &str, message: String, help: Option<String>) -> Problem {
    Problem { field: field.to_owned(), reason: Reason::Invalid, message, help, place: None }
}

pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let (found, objects) = findings(&args.paths)?;
    let renderer =
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) { Renderer::styled() } else { Renderer::plain() };
    for finding in &found {
        say!("{}", finding.render(&renderer));
    }
    // As kubectl: a typing mistake in a path must not look like success.
    if objects == 0 && found.is_empty() {
        anyhow::bail!("no objects in these paths: nothing was checked");
    }
    let errors = found.iter().filter(|finding| !finding.note).count();
    match errors {
        0 => say!("{objects} objects, no problems"),
        1 => say!("{objects} objects, 1 problem"),
        _ => say!("{objects} objects, {errors} problems"),
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Finding {
    /// The finding as a compiler would show it: place, what is wrong, the sentence with the spot marked, the mend.
    #[must_use]
    pub fn render(&self, renderer: &Renderer) -> String {
        let mut place = self.path.display().to_string();
        if let Some(line) = self.line {
            place.push_str(&format!(":{line}"));
        }
        let object = self.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        let title = format!("{place}: {object}{}: {}", self.problem.field, self.problem.message);
        caret::render(&self.problem, &title, self.note, renderer)
    }
}
