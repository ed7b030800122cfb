//! A question of the API server to its answer. Pure, but for the warnings, which the caller brings.

use annotate_snippets::Renderer;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, Operation},
};
use limiter::{policy::tenants::Tenants, problem::Problem};
use serde_json::Value;

use super::Sound;
use crate::{caret, index::Object, watch::decode};

/// The most that one answer shows; somebody who mends these sees the others.
const SHOWN: usize = 10;

/// What an object is found to be.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is none of our business, or changes nothing that is.
    Pass,
    /// It is admitted with this warning: it is sent here by mistake.
    Foreign(String),
    /// It makes sense.
    Good(Sound),
    /// It does not.
    Bad(Vec<Problem>),
    /// It did not before either, and what it says is not changed.
    StillBad(Vec<Problem>),
}

/// Judges what is asked, of an object that may do what `tenants` says.
pub(super) fn judge(request: &AdmissionRequest<DynamicObject>, tenants: &Tenants) -> Verdict {
    if request.sub_resource.is_some() || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Verdict::Pass;
    }
    let Some(object) = request.object.as_ref().filter(|object| object.metadata.deletion_timestamp.is_none()) else {
        return Verdict::Pass;
    };
    let asked = &request.kind;
    let version = [asked.group.as_str(), asked.version.as_str()].join("/");
    let Some(kind) = decode::kind(&version, &asked.kind).filter(|kind| kind.is_own()) else {
        return Verdict::Foreign(format!("Weir does not judge {version} {}: take it out of its webhook", asked.kind));
    };
    let mut value = match serde_json::to_value(object) {
        Ok(value) => value,
        Err(error) => return Verdict::Foreign(format!("Weir cannot read the object: {error}")),
    };
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let mut object_read = decode::object(kind, value);
    if let Object::Policy { policy: Some(policy), problems } = &mut object_read {
        problems.extend(tenants.hold(policy));
    }
    match object_read {
        Object::Policy { policy: Some(policy), problems } if problems.is_empty() => {
            Verdict::Good(Sound::Policy(policy))
        }
        Object::Lazy { lazy: Some(lazy), problems } if problems.is_empty() => Verdict::Good(Sound::Lazy(lazy)),
        Object::Split { split: Some(split), problems } if problems.is_empty() => Verdict::Good(Sound::Split(split)),
        // Metadata of an object that was bad before must stay free to change, finalizers above all: else it could not be deleted.
        Object::Policy { problems, .. }
        | Object::Lazy { problems, .. }
        | Object::Split { problems, .. }
        | Object::Undecodable(problems) => {
            let same_spec = |old: &DynamicObject| old.data.get("spec") == object.data.get("spec");
            let is_old = request.operation == Operation::Update && request.old_object.as_ref().is_some_and(same_spec);
            if is_old { Verdict::StillBad(problems) } else { Verdict::Bad(problems) }
        }
        _ => Verdict::Pass,
    }
}

/// The answer, with its word for the metrics page.
pub(super) fn answer(
    request: &AdmissionRequest<DynamicObject>,
    verdict: &Verdict,
    warnings: Vec<String>,
) -> (AdmissionResponse, &'static str) {
    let mut response = AdmissionResponse::from(request);
    let warnings = match verdict {
        Verdict::Bad(problems) => {
            response = response.deny(text(request, problems));
            response.result.code = 422;
            response.result.reason = "Invalid".to_owned();
            return (response, "denied");
        }
        Verdict::StillBad(problems) => {
            problems.iter().take(SHOWN).map(|problem| format!("still refused: {problem}")).collect()
        }
        Verdict::Foreign(warning) => vec![warning.clone()],
        Verdict::Pass | Verdict::Good(_) => warnings,
    };
    let result = if warnings.is_empty() { "allowed" } else { "warned" };
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    (response, result)
}

/// All mistakes as `weir validate` prints them. Begins with words of its own, since the API server puts its own before them.
fn text(request: &AdmissionRequest<DynamicObject>, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "a mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    let mut text = format!("{} {:?} has {count}", request.kind.kind, request.name);
    for problem in problems.iter().take(SHOWN) {
        let title = format!("{}: {}", problem.field, problem.message);
        text.push('\n');
        text.push_str(&caret::render(problem, &title, false, &Renderer::plain()));
    }
    if problems.len() > SHOWN {
        text.push_str(&format!("\n... and {} more", problems.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
