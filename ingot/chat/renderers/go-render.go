// What Ollama makes of conversations by a Modelfile's TEMPLATE: Go's own text/template, with what Ollama's template package
// does before it (messages of one role in a row become one, system messages are also joined) and the functions it adds.
//
//	go-render TEMPLATE < LINES
//
// TEMPLATE is a file. A line is {"messages": [{"role", "content"}]}; for each one comes back: {"text"} or {"error"}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type given struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

func marshal(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}

// As Ollama's collate: https://github.com/ollama/ollama/blob/main/template/template.go
func collate(messages []message) (string, []*message) {
	var system []string
	var collated []*message
	for i := range messages {
		one := &messages[i]
		if one.Role == "system" {
			system = append(system, one.Content)
		}
		if last := len(collated) - 1; last >= 0 && collated[last].Role == one.Role && one.Role != "tool" {
			collated[last].Content += "\n\n" + one.Content
		} else {
			collated = append(collated, one)
		}
	}
	return strings.Join(system, "\n\n"), collated
}

func render(parsed *template.Template, line []byte) given {
	var asked struct {
		Messages []message `json:"messages"`
	}
	if err := json.Unmarshal(line, &asked); err != nil {
		return given{Error: err.Error()}
	}
	system, messages := collate(asked.Messages)
	var text strings.Builder
	// The names that Ollama gives a template.
	values := map[string]any{
		"System": system, "Messages": messages, "Tools": nil, "Response": "", "Suffix": "",
		"Think": false, "ThinkLevel": "", "IsThinkSet": false,
	}
	if err := parsed.Execute(&text, values); err != nil {
		return given{Error: err.Error()}
	}
	return given{Text: text.String()}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go-render TEMPLATE < LINES")
		os.Exit(2)
	}
	source, err := os.ReadFile(os.Args[1])
	if err == nil {
		var parsed *template.Template
		parsed, err = template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"json": marshal}).Parse(string(source))
		if err == nil {
			lines := bufio.NewScanner(os.Stdin)
			lines.Buffer(nil, 1<<30)
			out := json.NewEncoder(os.Stdout)
			out.SetEscapeHTML(false)
			for lines.Scan() {
				_ = out.Encode(render(parsed, lines.Bytes()))
			}
			err = lines.Err()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
