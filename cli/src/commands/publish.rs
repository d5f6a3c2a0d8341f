//! `kith community publish`: the signed list that the running community node shows, as a file.

use std::fs;
use std::path::Path;

use kith_node::api::PublishedList;

use super::find::DAY;
use crate::args::Cli;
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(cli: &Cli, to: Option<&Path>, output: &mut Output) -> Result<(), CliError> {
    let list: PublishedList = Client::find(cli)?.get("/v1/community/published")?;
    let Some(path) = to else {
        return output.print(&list, |list| list.text.trim_end().to_owned());
    };
    fs::write(path, &list.text)
        .map_err(|error| CliError::io(&format!("cannot write {}", path.display()), &error))?;
    let PublishedList {
        until,
        recommended,
        found,
        ..
    } = list;
    output.print(&list, |_| {
        format!(
            "{}: {recommended} nodes recommended, {found} found; it holds until {}",
            path.display(),
            until.in_local_time(DAY)
        )
    })
}
