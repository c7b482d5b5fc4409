// A small reader of JSON: what case.json and the header of a safetensors file need.
#pragma once

#include <cctype>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
    enum Kind { null, boolean, number, text, list, object } kind = null;
    double value = 0;
    std::string string;
    std::vector<Json> items;
    std::map<std::string, Json> members;

    bool absent() const { return kind == null; }
    bool truth() const { return kind == boolean && value != 0; }
    // A member; null where there is none.
    const Json& operator[](const std::string& name) const {
        static const Json nothing;
        auto found = members.find(name);
        return found == members.end() ? nothing : found->second;
    }
};

class JsonReader {
   public:
    static Json read(const std::string& text) {
        JsonReader reader(text);
        Json found = reader.value();
        reader.blanks();
        if (reader.at_ != text.size()) reader.fail();
        return found;
    }

   private:
    explicit JsonReader(const std::string& text) : text_(text) {}

    [[noreturn]] void fail() const { throw std::runtime_error("bad JSON at byte " + std::to_string(at_)); }
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    void blanks() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }
    bool next(char letter) {
        blanks();
        if (peek() != letter) return false;
        ++at_;
        return true;
    }
    void need(char letter) {
        if (!next(letter)) fail();
    }

    Json value() {
        blanks();
        switch (peek()) {
            case '{': return object();
            case '[': return list();
            case '"': return string();
            case 't': return word("true", Json::boolean, 1);
            case 'f': return word("false", Json::boolean, 0);
            case 'n': return word("null", Json::null, 0);
            default: return number();
        }
    }

    Json object() {
        Json made;
        made.kind = Json::object;
        need('{');
        if (next('}')) return made;
        do {
            blanks();
            std::string name = string().string;
            need(':');
            made.members[name] = value();
        } while (next(','));
        need('}');
        return made;
    }

    Json list() {
        Json made;
        made.kind = Json::list;
        need('[');
        if (next(']')) return made;
        do made.items.push_back(value());
        while (next(','));
        need(']');
        return made;
    }

    Json string() {
        Json made;
        made.kind = Json::text;
        if (peek() != '"') fail();
        for (++at_; peek() != '"'; ++at_) {
            if (at_ >= text_.size()) fail();
            if (text_[at_] == '\\') {
                ++at_;  // \uXXXX does not occur in what this program looks at, and is kept as it is
                made.string += peek() == 'n' ? '\n' : peek();
            } else {
                made.string += text_[at_];
            }
        }
        ++at_;
        return made;
    }

    Json word(const std::string& expected, Json::Kind kind, double value) {
        if (text_.compare(at_, expected.size(), expected) != 0) fail();
        at_ += expected.size();
        Json made;
        made.kind = kind;
        made.value = value;
        return made;
    }

    Json number() {
        char* end = nullptr;
        Json made;
        made.kind = Json::number;
        made.value = std::strtod(text_.c_str() + at_, &end);
        if (end == text_.c_str() + at_) fail();
        at_ = static_cast<std::size_t>(end - text_.c_str());
        return made;
    }

    const std::string& text_;
    std::size_t at_ = 0;
};
