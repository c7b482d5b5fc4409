// An implementation without Python that refimpl tests: `refimpl conform exec:./runner`.
//
//     runner --about                                     who it is and which layers it has
//     runner CASE.json IN.safetensors OUT.safetensors    answers one question; docs/vectors.md describes the files
//
// Exit status 0: answered; 3: not supported, the reason on standard error; 1: an error.

#include <fstream>
#include <iostream>

#include "layers.hpp"

constexpr const char* ABOUT = R"({
 "name": "cpp-example",
 "version": "1",
 "dtypes": ["float64", "float32", "bfloat16"],
 "layers": ["rms_norm", "layer_norm", "l2_norm", "rope_cos_sin", "rotary_embedding", "position_embedding", "token_order",
            "padding_mask", "causal_mask", "sliding_window_mask", "chunked_mask", "attention_mask", "attention", "soft_cap",
            "linear", "silu", "gelu", "swiglu", "geglu", "clamped_swiglu", "sigmoid", "sigmoid_gate", "embedding", "lm_head"]
})";

template <class Real>
class Layer {
   public:
    Layer(const Json& question, const TensorFile& inputs) : question_(question), inputs_(inputs) {}

    void answer(TensorWriter& out) const {
        const std::string& name = question_["function"].string;
        if (name == "rope_cos_sin") return angles(out);
        if (name == "token_order") return put(out, 0, order());
        if (name.find("_mask") != std::string::npos) return put(out, 0, mask());
        put(out, 0, compute(name));
    }

   private:
    Tensor<Real> get(const std::string& name) const { return inputs_.get<Real>(name); }
    Tensor<Real> maybe(const std::string& name) const { return inputs_.has(name) ? get(name) : Tensor<Real>(); }
    Tensor<std::int64_t> places(const std::string& name) const {
        return inputs_.has(name) ? inputs_.get<std::int64_t>(name) : Tensor<std::int64_t>();
    }
    const Json& option(const std::string& name) const { return question_["options"][name]; }
    Real number(const std::string& name) const { return static_cast<Real>(option(name).value); }
    bool by_tanh() const { return option("approximate").string == "tanh"; }

    template <class Value>
    void put(TensorWriter& out, std::size_t index, const Tensor<Value>& tensor) const {
        const Json& asked = question_["outputs"].items.at(index);
        out.add(asked["name"].string, asked["dtype"].string, tensor);
    }

    template <class Function>
    Tensor<Real> each(const std::string& name, Function function) const {
        Tensor<Real> x = get(name);
        for (Real& value : x.data) value = function(value);
        return x;
    }

    // y = function(gate) · up
    template <class Function>
    Tensor<Real> gated(Function function) const {
        Tensor<Real> y = each("gate", function), up = get("up");
        for (std::int64_t index = 0; index < y.size(); ++index) y[index] *= up[index];
        return y;
    }

    Tensor<Real> compute(const std::string& name) const {
        if (name == "rms_norm") return gain(normed(get("x"), 1 / Real(get("x").dim(-1)), number("eps")));
        if (name == "layer_norm") return gain(normed(centred(get("x")), 1 / Real(get("x").dim(-1)), number("eps")));
        if (name == "l2_norm") return normed(get("x"), Real(1), number("eps"));
        if (name == "linear") return linear(get("x"), get("weight"), maybe("bias"));
        if (name == "lm_head") return head();
        if (name == "embedding") return rows("tokens", option("scale").absent() ? Real(1) : stored(number("scale")));
        if (name == "position_embedding") return rows("positions", 1);
        if (name == "rotary_embedding") return rotary_embedding(get("x"), get("cos"), get("sin"), option("interleaved").truth());
        if (name == "attention") return attend();
        if (name == "silu") return each("x", [](Real x) { return x * sigmoid(x); });
        if (name == "sigmoid") return each("x", sigmoid<Real>);
        if (name == "gelu") return each("x", [this](Real x) { return gelu(x, by_tanh()); });
        if (name == "soft_cap") return capped(get("x"), number("cap"));
        if (name == "swiglu") return gated([](Real x) { return x * sigmoid(x); });
        if (name == "geglu") return gated([this](Real x) { return gelu(x, by_tanh()); });
        if (name == "clamped_swiglu") return clamped();
        if (name == "sigmoid_gate") return opened();
        throw Unsupported("no layer " + name);
    }

    Tensor<Real> gain(Tensor<Real> y) const {
        const Tensor<Real> weight = maybe("weight"), bias = maybe("bias");
        const Real shift = option("zero_centred").truth() ? 1 : 0;
        for (std::int64_t index = 0; index < y.size(); ++index) {
            const std::int64_t d = index % y.dim(-1);
            if (!weight.shape.empty()) y[index] *= weight[d] + shift;
            if (!bias.shape.empty()) y[index] += bias[d];
        }
        return y;
    }

    static Tensor<Real> capped(Tensor<Real> x, Real cap) {
        for (Real& value : x.data) value = cap * std::tanh(value / cap);
        return x;
    }

    Tensor<Real> head() const {
        Tensor<Real> y = linear(get("x"), get("weight"), Tensor<Real>());
        if (!option("scale").absent())
            for (Real& value : y.data) value *= number("scale");
        return option("softcap").absent() ? y : capped(y, number("softcap"));
    }

    // A number of the options in the format of the model.
    Real stored(Real value) const {
        return question_["dtype"].string == "bfloat16" ? Real(from_bfloat16(to_bfloat16(float(value)))) : value;
    }

    Tensor<Real> rows(const std::string& which, Real scale) const {
        const Tensor<std::int64_t> indices = places(which);
        const Tensor<Real> weight = get("weight");
        const std::int64_t D = weight.dim(1);
        Tensor<Real> y({indices.dim(0), indices.dim(1), D});
        for (std::int64_t index = 0; index < y.size(); ++index)
            y[index] = weight[std::max<std::int64_t>(indices[index / D], 0) * D + index % D] * scale;
        return y;
    }

    Tensor<Real> clamped() const {
        Tensor<Real> gate = get("gate"), up = get("up");
        const Real alpha = number("alpha"), limit = number("limit");
        for (std::int64_t index = 0; index < gate.size(); ++index) {
            const Real g = std::min(gate[index], limit), u = std::clamp(up[index], -limit, limit);
            gate[index] = g * sigmoid(alpha * g) * (u + 1);
        }
        return gate;
    }

    Tensor<Real> opened() const {
        Tensor<Real> x = get("x"), gate = get("gate");
        for (std::int64_t index = 0; index < x.size(); ++index)
            x[index] *= sigmoid(gate[gate.size() == x.size() ? index : index / x.dim(-1)]);
        return x;
    }

    void angles(TensorWriter& out) const {
        const Tensor<std::int64_t> positions = places("positions");
        const Tensor<Real> frequencies = get("inv_freq");
        const std::int64_t P = frequencies.dim(0);
        Tensor<Real> cos({positions.dim(0), positions.dim(1), P}), sin = cos;
        for (std::int64_t index = 0; index < cos.size(); ++index) {
            const Real angle = Real(positions[index / P]) * frequencies[index % P];
            cos[index] = std::cos(angle) * number("attention_factor");
            sin[index] = std::sin(angle) * number("attention_factor");
        }
        put(out, 0, cos);
        put(out, 1, sin);
    }

    Tensor<std::int64_t> order() const {
        Tensor<std::int64_t> mask = places("attention_mask");
        for (std::int64_t row = 0; row < mask.dim(0); ++row)
            for (std::int64_t column = 0, count = 0; column < mask.dim(1); ++column) {
                std::int64_t& place = mask[row * mask.dim(1) + column];
                place = place ? count++ : -1;
            }
        return mask;
    }

    // An option that the function does not have is off, but for causality.
    Mask visibility() const {
        const std::string& name = question_["function"].string;
        const bool padding = name == "padding_mask" || name == "attention_mask" || name == "attention";
        const bool causal = name != "padding_mask" && (option("causal").absent() || option("causal").truth());
        return {padding, causal, std::int64_t(option("window").value), std::int64_t(option("chunk").value)};
    }

    Tensor<std::int64_t> mask() const {
        const Tensor<std::int64_t> q = places("q_order"), k = places("k_order");
        const std::int64_t T = q.dim(1), S = k.dim(1);
        Tensor<std::int64_t> visible({q.dim(0), T, S});
        for (std::int64_t index = 0; index < visible.size(); ++index)
            visible[index] = visibility().shows(q[index / S], k[index / S / T * S + index % S]);
        return visible;
    }

    Tensor<Real> attend() const {
        AttentionInputs<Real> in{get("q"), get("k"), get("v"), maybe("sinks"), maybe("temperature"), maybe("bias"),
                                 places("q_order"), places("k_order"), number("scale"), number("softcap"), visibility()};
        return attention(in);
    }

    const Json& question_;
    const TensorFile& inputs_;
};

int main(int count, char** arguments) {
    if (count == 2 && std::string(arguments[1]) == "--about") {
        std::cout << ABOUT << '\n';
        return 0;
    }
    if (count != 4) {
        std::cerr << "usage: runner CASE.json IN.safetensors OUT.safetensors\n";
        return 2;
    }
    try {
        std::ifstream stream(arguments[1]);
        const Json question = JsonReader::read({std::istreambuf_iterator<char>(stream), {}});
        const TensorFile inputs(arguments[2]);
        TensorWriter out;
        if (question["dtype"].string == "float64") Layer<double>(question, inputs).answer(out);
        else Layer<float>(question, inputs).answer(out);
        out.write(arguments[3]);
    } catch (const Unsupported& refusal) {
        std::cerr << refusal.what() << '\n';
        return 3;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
