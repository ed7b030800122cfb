//! Shows a problem as a compiler would: what is wrong, the sentence with the spot marked, the mend.
//!
//! Pure. `weir validate` prints it, the webhook answers with it.

use annotate_snippets::{AnnotationKind, Element, Level, Renderer, Snippet};
use limiter::problem::Problem;

/// The problem under a `title`; one that is only worth knowing is a note.
#[must_use]
pub fn render(problem: &Problem, title: &str, note: bool, renderer: &Renderer) -> String {
    let level = if note { Level::NOTE } else { Level::ERROR };
    let mut group = level.primary_title(title).elements([] as [Element<'_>; 0]);
    if let Some(at) = &problem.place {
        let label = format!("column {}", at.column());
        let end = at.end.max(at.start + 1).min(at.text.len());
        let annotation = AnnotationKind::Primary.span(at.start.min(end)..end).label(label);
        group = group.element(Snippet::source(at.text.as_str()).annotation(annotation));
    }
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}
