#![forbid(unsafe_code)]
//! Owns what is generated from the arguments: the completions of the shells and the manual page. Must never know what
//! a verb does.

use crate::args::{Arguments, CompletionsArgs};
use crate::exit::{Outcome, Status};
use crate::output::print;
use crate::session::Session;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io;

pub(crate) fn run_completions(args: &CompletionsArgs, session: &Session) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "checkmap", &mut script);
    print(session, |out| Ok(out.write_all(&script)?))?;
    Ok(Status::Done)
}

pub(crate) fn run_man(session: &Session) -> Outcome {
    print(session, |out| Ok(out.write_all(&page()?)?))?;
    Ok(Status::Done)
}

/// The manual: one page, the subcommands as sections of it.
fn page() -> io::Result<Vec<u8>> {
    let command = Arguments::command();
    let verbs: Vec<Command> = command.get_subcommands().cloned().collect();
    let man = Man::new(command).manual("checkmap");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for verb in verbs {
        page.extend(section(verb)?);
    }
    let mut end = Vec::new();
    man.render_extra_section(&mut end)?;
    page.extend(with_headings(&end, ".SH"));
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// The section of one subcommand; what would be sections of its own page are subsections here.
fn section(verb: Command) -> io::Result<Vec<u8>> {
    let name = format!("checkmap {}", verb.get_name());
    let man = Man::new(verb.bin_name(&name).disable_help_flag(true));
    let mut section = Vec::new();
    man.render_synopsis_section(&mut section)?;
    man.render_description_section(&mut section)?;
    man.render_options_section(&mut section)?;
    man.render_extra_section(&mut section)?;
    Ok([format!(".SH \"{name}\"\n").as_bytes(), &with_headings(&section, ".SS")].concat())
}

/// Makes every heading one of this `level`; so are the lines of the help texts that end in a colon.
fn with_headings(roff: &[u8], level: &str) -> Vec<u8> {
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(roff).lines() {
        match (line.strip_prefix(".SH "), line.strip_suffix(':')) {
            (Some("EXTRA"), _) => {}
            (Some(heading), _) => lines.push(format!("{level} {heading}\n")),
            (None, Some(heading @ ("Example" | "Examples" | "Notes" | "Exit status"))) => {
                lines.push(format!("{level} \"{}\"\n", heading.to_uppercase()));
            }
            _ => lines.push(format!("{line}\n")),
        }
    }
    lines.concat().into_bytes()
}
