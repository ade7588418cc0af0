#![forbid(unsafe_code)]
//! Owns the texts generated from the arguments: the completions of the shells and the manual page. Must never know what
//! a verb does.

use crate::args::{Arguments, CompletionsArgs};
use crate::complete::with_names;
use crate::exit::{Outcome, Status};
use crate::output::print;
use crate::session::Session;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io;

pub(crate) fn run_completions(args: &CompletionsArgs, session: &Session) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "checkmap", &mut script);
    let script = with_names(args.shell, String::from_utf8_lossy(&script).into_owned());
    print(session, |out| Ok(out.write_all(script.as_bytes())?))?;
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
    let (mut page, mut head, mut end) = (Vec::new(), Vec::new(), Vec::new());
    man.render_title(&mut page)?;
    man.render_name_section(&mut head)?;
    man.render_synopsis_section(&mut head)?;
    man.render_description_section(&mut head)?;
    man.render_options_section(&mut head)?;
    page.extend(arrange(&head, ".SH"));
    for verb in verbs {
        let name = format!("checkmap {}", verb.get_name());
        let inner: Vec<Command> = verb.get_subcommands().cloned().collect();
        page.extend(section(verb, &name)?);
        for verb in inner {
            let name = format!("{name} {}", verb.get_name());
            page.extend(section(verb, &name)?);
        }
    }
    man.render_extra_section(&mut end)?;
    man.render_version_section(&mut end)?;
    page.extend(arrange(&end, ".SH"));
    Ok(page)
}

/// The section of one subcommand; what would be sections of its own page are subsections here.
fn section(verb: Command, name: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(verb.bin_name(name).disable_help_flag(true).disable_help_subcommand(true));
    let mut section = Vec::new();
    man.render_synopsis_section(&mut section)?;
    man.render_description_section(&mut section)?;
    man.render_options_section(&mut section)?;
    man.render_extra_section(&mut section)?;
    Ok([format!(".SH \"{name}\"\n").as_bytes(), &arrange(&section, ".SS")].concat())
}

/// Makes every heading one of this `level`, those of the help texts too, and keeps lines that begin with blanks as they
/// are.
fn arrange(roff: &[u8], level: &str) -> Vec<u8> {
    let mut page = String::new();
    let mut as_it_is = false;
    for line in String::from_utf8_lossy(roff).lines() {
        if line.starts_with("    ") != as_it_is {
            as_it_is = !as_it_is;
            page.push_str(if as_it_is { ".nf\n" } else { ".fi\n" });
        }
        match (line.strip_prefix(".SH "), line.strip_suffix(':')) {
            (Some("EXTRA"), _) => {}
            (Some(heading), _) => page.extend([level, " ", heading, "\n"]),
            (None, Some(heading @ ("Example" | "Examples" | "Notes" | "Exit status"))) => {
                page.extend([level, " \"", &heading.to_uppercase(), "\"\n"]);
            }
            _ => page.extend([line, "\n"]),
        }
    }
    if as_it_is {
        page.push_str(".fi\n");
    }
    page.into_bytes()
}
