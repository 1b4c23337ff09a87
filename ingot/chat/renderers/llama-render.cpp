// What llama.cpp's server makes of conversations: rendered by the chat template inside a GGUF with llama.cpp's own Jinja,
// tokenised by the GGUF's vocabulary.
//
//   llama-render MODEL.gguf < LINES
//
// A line is a JSON object: {"messages": [...], "ask": bool} is rendered and tokenised, {"text": "..."} is tokenised alone,
// {"token": "..."} is looked up. For each line one comes back: {"text", "ids"}, {"id", "end"}, or {"error"}.
#include "chat.h"
#include "common.h"
#include "json.h"
#include "llama.h"

#include <iostream>
#include <string>

static common_json tokenized(const llama_vocab * vocab, const std::string & text) {
    // As the server does: BOS is added if the vocabulary says so, markers in the text are control tokens.
    common_json line = common_json::object();
    line["text"] = text;
    line["ids"] = common_tokenize(vocab, text, true, true);
    return line;
}

static common_json answer(const common_json & asked, const llama_vocab * vocab, const common_chat_templates * templates) {
    if (asked.contains("token")) {
        const auto ids = common_tokenize(vocab, asked.at("token").get<std::string>(), false, true);
        common_json line = common_json::object();
        line["ids"] = ids;
        line["end"] = ids.size() == 1 && llama_vocab_is_eog(vocab, ids[0]);
        return line;
    }
    if (asked.contains("text")) {
        return tokenized(vocab, asked.at("text").get<std::string>());
    }
    common_chat_templates_inputs inputs;
    inputs.messages = common_chat_msgs_parse_oaicompat(asked.at("messages"));
    inputs.add_generation_prompt = asked.at("ask").get<bool>();
    return tokenized(vocab, common_chat_templates_apply(templates, inputs).prompt);
}

int main(int count, char ** words) {
    if (count != 2) {
        std::cerr << "usage: llama-render MODEL.gguf < LINES\n";
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) { std::cerr << text; }
    }, nullptr);
    auto params = llama_model_default_params();
    params.vocab_only = true;
    llama_model * model = llama_model_load_from_file(words[1], params);
    if (!model) { return 1; }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const auto templates = common_chat_templates_init(model, "");
    if (!common_chat_templates_was_explicit(templates.get())) {
        std::cerr << "the file carries no chat template\n";
        return 1;
    }
    for (std::string line; std::getline(std::cin, line);) {
        common_json given = common_json::object();
        try {
            given = answer(common_json::parse(line), vocab, templates.get());
        } catch (const std::exception & error) {
            given["error"] = std::string(error.what());
        }
        std::cout << given.dump() << "\n";
    }
    llama_model_free(model);
    return 0;
}
