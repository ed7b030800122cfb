//! Starting a container: what stands for its image, what it mounts, and as whom it runs.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::Stdio};

use anyhow::Context;
use k8s_openapi::api::core::v1::Container;
use tokio::process::{Child, Command};

use super::{
    Programs,
    environment::{environment, expand},
    pod::Place,
};

/// Where programs of the table are in a container.
pub(super) const PROGRAMS: &str = "/run/programs";

/// Starts it in the pod's network, with files of its own. The process that is returned is the container's program.
pub(super) async fn spawn(place: &Place, container: &Container) -> anyhow::Result<Child> {
    let environment = environment(place, container).await?;
    let line = line(&place.host.programs, container, &environment)?;
    let folder = place.folder.join("containers").join(&container.name);
    std::fs::create_dir_all(folder.join("disk"))?;
    std::fs::write(folder.join("mounts"), mounts(place, container, &environment)?)?;
    let log = std::fs::File::options().create(true).append(true).open(place.host.log_file(
        place.namespace(),
        place.name(),
        &container.name,
    ))?;

    let own = container.security_context.as_ref();
    let pod = place.spec().security_context.as_ref();
    let user = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user)).unwrap_or(0);
    let group = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group)).unwrap_or(0);
    let read_only = own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false);
    let home = place.host.home().to_str().context("the temporary folder's name is UTF-8")?;
    Command::new("nsenter")
        .args(["--target", &place.sandbox.process.to_string(), "--net", "unshare", "--mount", "sh", "-c"])
        .args([include_str!("container.sh"), "sh", home])
        .arg(folder)
        .args([format!("{user}:{group}"), read_only.to_string()])
        .arg(container.working_dir.as_deref().unwrap_or("/"))
        .args(line)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("nsenter")
}

/// Program and arguments.
fn line(
    programs: &Programs,
    container: &Container,
    environment: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<String>> {
    let image = container.image.as_deref().unwrap_or_default();
    let mut given = container.command.iter().flatten().map(|word| expand(word, environment));
    // An image's own program, or one of the table that the manifest names.
    let mut line = match given.next() {
        Some(program) => match program.rsplit('/').next().and_then(|name| inside(programs, name)) {
            Some(line) => line,
            None => vec![program],
        },
        None => {
            let name = image.rsplit('/').next().and_then(|last| last.split([':', '@']).next()).unwrap_or_default();
            inside(programs, name).with_context(|| format!("no program stands for the image {image:?} on this node"))?
        }
    };
    line.extend(given);
    line.extend(container.args.iter().flatten().map(|word| expand(word, environment)));
    Ok(line)
}

/// A program of the table, as a container finds it.
fn inside(programs: &Programs, name: &str) -> Option<Vec<String>> {
    let mut line = programs.get(name)?.clone();
    if line[0].starts_with('/') {
        line[0] = format!("{PROGRAMS}/{name}");
    }
    Some(line)
}

/// One line for each mount: `rw` or `ro`, the source (absolute, or in the node's folder) and the target.
fn mounts(place: &Place, container: &Container, environment: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let home = place.host.home();
    let mut lines = String::new();
    let mut add = |mode: &str, source: &Path, target: &str| {
        let source = source.strip_prefix(home).unwrap_or(source);
        writeln!(lines, "{mode} {} {target}", source.display()).expect("a String can be written");
    };
    add("rw", &place.host.names.file(place.namespace()), "/etc/hosts");
    add("rw", &place.host.names.resolver(), "/etc/resolv.conf");
    for (name, program) in &place.host.programs {
        if program[0].starts_with('/') {
            add("rw", Path::new(&program[0]), &format!("{PROGRAMS}/{name}"));
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        let mut source = place.folder.join("volumes").join(&mount.name);
        let part = mount.sub_path.clone().or(mount.sub_path_expr.as_ref().map(|part| expand(part, environment)));
        if let Some(part) = part {
            source.push(part);
            if !source.exists() {
                std::fs::create_dir_all(&source)?;
            }
        }
        add(if mount.read_only == Some(true) { "ro" } else { "rw" }, &source, &mount.mount_path);
    }
    Ok(lines)
}
