//! nginx's words: quotes, escapes, comments, and where each word stands.

use std::{iter::Peekable, str::Chars, sync::Arc};

use crate::convert::{Place, Refused};

/// Where something begins; lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl At {
    pub(super) fn place(&self) -> Place {
        Place { file: self.file.to_string(), line: self.line }
    }

    pub(super) fn refused(&self, why: impl Into<String>) -> Refused {
        Refused { at: self.place(), column: self.column, why: why.into() }
    }
}

/// Without its quotes, escapes resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: At,
}

#[derive(Debug, PartialEq)]
pub(super) enum Token {
    Word(Word),
    Semicolon,
    Open,
    Close,
    End,
}

pub(super) struct Lexer<'t> {
    rest: Peekable<Chars<'t>>,
    at: At,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(file: Arc<str>, text: &'t str) -> Lexer<'t> {
        let rest = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
        Lexer { rest, at: At { file, line: 1, column: 1 } }
    }

    /// The next token, and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token, At), Refused> {
        self.skip_space_and_comments();
        let at = self.at.clone();
        let token = match self.rest.peek() {
            None => Token::End,
            Some(';') => self.single(Token::Semicolon),
            Some('{') => self.single(Token::Open),
            Some('}') => self.single(Token::Close),
            Some(quote @ ('"' | '\'')) => {
                let quote = *quote;
                self.bump();
                Token::Word(Word { text: self.quoted(quote, &at)?, at: at.clone() })
            }
            Some(_) => Token::Word(Word { text: self.bare(), at: at.clone() }),
        };
        // It stands for bytes that could not be read: another value than nginx's.
        if let Token::Word(word) = &token
            && word.text.contains(char::REPLACEMENT_CHARACTER)
        {
            return Err(at.refused("this is no UTF-8 (`iconv -f latin1 -t utf8` makes it so)"));
        }
        Ok((token, at))
    }

    /// Over a block of Lua whose brace is open, and to its end. Braces in Lua's strings and comments do not count.
    pub(super) fn skip_lua(&mut self, opened: &At) -> Result<(), Refused> {
        let mut depth = 1_usize;
        while let Some(c) = self.bump() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                quote @ ('"' | '\'') => self.skip_lua_string(quote),
                '[' => self.skip_long_bracket(),
                '-' if self.rest.peek() == Some(&'-') => {
                    self.bump();
                    let is_long = self.rest.peek() == Some(&'[') && {
                        self.bump();
                        matches!(self.rest.peek(), Some('[' | '='))
                    };
                    if is_long { self.skip_long_bracket() } else { self.skip_line() }
                }
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(opened.refused("this block of Lua has no end (look for a `}` that is missing)"))
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        match c {
            '\n' => (self.at.line, self.at.column) = (self.at.line + 1, 1),
            _ => self.at.column += 1,
        }
        Some(c)
    }

    fn single(&mut self, token: Token) -> Token {
        self.bump();
        token
    }

    fn skip_space_and_comments(&mut self) {
        while let Some(c) = self.rest.peek() {
            match c {
                ' ' | '\t' | '\r' | '\n' => drop(self.bump()),
                '#' => self.skip_line(),
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        while self.rest.peek().is_some_and(|c| *c != '\n') {
            self.bump();
        }
    }

    fn bare(&mut self) -> String {
        let mut text = String::new();
        let mut is_behind_dollar = false;
        while let Some(&c) = self.rest.peek() {
            let ends = matches!(c, ' ' | '\t' | '\r' | '\n' | ';') || (c == '{' && !is_behind_dollar);
            if ends {
                break;
            }
            self.bump();
            is_behind_dollar = c == '$';
            if c == '\\' { self.escaped(&mut text) } else { text.push(c) }
        }
        text
    }

    fn quoted(&mut self, quote: char, opened: &At) -> Result<String, Refused> {
        let mut text = String::new();
        loop {
            match self.bump() {
                None => {
                    return Err(
                        opened.refused(format!("this quote has no end (write {quote} behind the text)"))
                    );
                }
                Some('\\') => self.escaped(&mut text),
                Some(c) if c == quote => break,
                Some(c) => text.push(c),
            }
        }
        match self.rest.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') => Ok(text),
            Some(c) => Err(self
                .at
                .refused(format!("{c:?} stands right behind a quoted text (write a space between them)"))),
        }
    }

    /// What follows a backslash. Only these are resolved: a regular expression keeps its own.
    fn escaped(&mut self, text: &mut String) {
        match self.bump() {
            Some(c @ ('"' | '\'' | '\\')) => text.push(c),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('n') => text.push('\n'),
            Some(c) => text.extend(['\\', c]),
            None => text.push('\\'),
        }
    }

    fn skip_lua_string(&mut self, quote: char) {
        while let Some(c) = self.bump() {
            match c {
                '\\' => drop(self.bump()),
                c if c == quote || c == '\n' => return,
                _ => {}
            }
        }
    }

    /// `[[ ]]` or `[==[ ]==]`, of which the first bracket is read already; anything else is an index.
    fn skip_long_bracket(&mut self) {
        let mut level = 0;
        while self.rest.peek() == Some(&'=') {
            self.bump();
            level += 1;
        }
        if self.rest.peek() != Some(&'[') {
            return;
        }
        let end = format!("]{}]", "=".repeat(level));
        let mut last = String::new();
        while let Some(c) = self.bump() {
            last.push(c);
            if last.chars().count() > end.len() {
                last.remove(0);
            }
            if last == end {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new("a.conf".into(), text);
        let mut words = Vec::new();
        loop {
            match lexer.next().unwrap().0 {
                Token::Word(word) => words.push(word.text),
                Token::Semicolon => words.push(";".to_owned()),
                Token::Open => words.push("{".to_owned()),
                Token::Close => words.push("}".to_owned()),
                Token::End => return words,
            }
        }
    }

    #[test]
    fn words_are_told_apart_as_nginx_does() {
        assert_eq!(words("a b;c{d}"), ["a", "b", ";", "c", "{", "d}"]);
        assert_eq!(words("a # b;\nc;"), ["a", "c", ";"]);
        assert_eq!(words("a b#c;"), ["a", "b#c", ";"]);
        assert_eq!(words(r#"a "b c" 'd"e' "f\"g";"#), ["a", "b c", "d\"e", "f\"g", ";"]);
        assert_eq!(words("a ${b}c;"), ["a", "${b}c", ";"]);
        assert_eq!(words(r"~ \.php$ a\ b;"), ["~", r"\.php$", r"a\ b", ";"]);
        assert_eq!(words("~ \"^/\\d{4}\" {"), ["~", r"^/\d{4}", "{"]);
    }

    #[test]
    fn a_quote_without_an_end_is_named_where_it_begins() {
        let mut lexer = Lexer::new("a.conf".into(), "a;\n  b 'c;\n");
        let refused = (0..4).find_map(|_| lexer.next().err()).unwrap();
        assert_eq!(refused.to_string(), "a.conf:2:5: this quote has no end (write ' behind the text)");
        let mut lexer = Lexer::new("a.conf".into(), "'a'b;");
        assert!(lexer.next().unwrap_err().to_string().starts_with("a.conf:1:4: 'b' stands right behind"));
    }

    #[test]
    fn braces_in_lua_strings_and_comments_do_not_count() {
        let lua = " a = '}' .. \"\\\"}\" .. [[ } ]] .. [=[ ]] } ]=] -- }\n --[[ }\n } ]] b = { c[1] } } d;";
        let mut lexer = Lexer::new("a.conf".into(), lua);
        let opened = lexer.at.clone();
        lexer.skip_lua(&opened).unwrap();
        assert!(matches!(lexer.next().unwrap().0, Token::Word(word) if word.text == "d"));
    }
}
