//! Writes one YAML file for each custom resource definition into a folder: `crdgen charts/weir-crds/templates`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: crdgen FOLDER")?;
    fs::create_dir_all(&folder)?;
    for definition in crds::all() {
        fs::write(Path::new(&folder).join(crds::file_name(&definition)), crds::template(&definition)?)?;
    }
    Ok(())
}
