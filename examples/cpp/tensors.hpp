// Tensors, and safetensors files: 8 bytes with the length of a JSON header, the header, the data. All little-endian.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.hpp"

// What this program does not do: exit status 3, and the reason on standard error.
struct Unsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using Shape = std::vector<std::int64_t>;

inline std::int64_t size_of(const Shape& shape) {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

// Numbers of any format, held in one that is at least as wide.
template <class Real>
struct Tensor {
    Shape shape;
    std::vector<Real> data;

    Tensor() = default;
    explicit Tensor(Shape sizes) : shape(std::move(sizes)), data(static_cast<std::size_t>(size_of(shape))) {}
    std::int64_t dim(int axis) const { return shape[static_cast<std::size_t>(axis < 0 ? axis + static_cast<int>(shape.size()) : axis)]; }
    std::int64_t size() const { return static_cast<std::int64_t>(data.size()); }
    Real& operator[](std::int64_t index) { return data[static_cast<std::size_t>(index)]; }
    const Real& operator[](std::int64_t index) const { return data[static_cast<std::size_t>(index)]; }
};

inline float from_bfloat16(std::uint16_t bits) {
    std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

// To the nearest, ties to even.
inline std::uint16_t to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 64);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class Stored, class Real>
void unpack(const char* bytes, std::vector<Real>& values) {
    for (std::size_t index = 0; index < values.size(); ++index) {
        Stored stored;
        std::memcpy(&stored, bytes + index * sizeof(Stored), sizeof(Stored));
        values[index] = static_cast<Real>(stored);
    }
}

class TensorFile {
   public:
    explicit TensorFile(const std::string& path) {
        std::ifstream stream(path, std::ios::binary);
        std::string whole{std::istreambuf_iterator<char>(stream), {}};
        std::uint64_t length = 0;
        if (whole.size() < 8) throw std::runtime_error(path + " is no safetensors file");
        std::memcpy(&length, whole.data(), 8);
        if (length > whole.size() - 8) throw std::runtime_error(path + " is truncated");
        header_ = JsonReader::read(whole.substr(8, length));
        data_ = whole.substr(8 + length);
    }

    bool has(const std::string& name) const { return !header_[name].absent(); }

    template <class Real>
    Tensor<Real> get(const std::string& name) const {
        const Json& entry = header_[name];
        if (entry.absent()) throw std::runtime_error("there is no tensor " + name);
        Shape shape;
        for (const Json& size : entry["shape"].items) shape.push_back(static_cast<std::int64_t>(size.value));
        Tensor<Real> tensor(shape);
        const std::string& dtype = entry["dtype"].string;
        auto begin = static_cast<std::size_t>(entry["data_offsets"].items.at(0).value);
        auto end = static_cast<std::size_t>(entry["data_offsets"].items.at(1).value);
        if (end > data_.size()) throw std::runtime_error(name + " lies outside its file");
        const char* bytes = data_.data() + begin;
        if (dtype == "F64") unpack<double>(bytes, tensor.data);
        else if (dtype == "F32") unpack<float>(bytes, tensor.data);
        else if (dtype == "I64") unpack<std::int64_t>(bytes, tensor.data);
        else if (dtype == "I32") unpack<std::int32_t>(bytes, tensor.data);
        else if (dtype == "BF16") {
            std::vector<std::uint16_t> bits(tensor.data.size());
            unpack<std::uint16_t>(bytes, bits);
            for (std::size_t index = 0; index < bits.size(); ++index) tensor.data[index] = static_cast<Real>(from_bfloat16(bits[index]));
        } else throw Unsupported("no tensors of format " + dtype);
        return tensor;
    }

   private:
    Json header_;
    std::string data_;
};

template <class Stored, class Real>
std::string packed(const std::vector<Real>& values) {
    std::string bytes(values.size() * sizeof(Stored), '\0');
    for (std::size_t index = 0; index < values.size(); ++index) {
        auto stored = static_cast<Stored>(values[index]);
        std::memcpy(&bytes[index * sizeof(Stored)], &stored, sizeof(Stored));
    }
    return bytes;
}

// Tensors to be written, each in the format that case.json asks for.
class TensorWriter {
   public:
    template <class Real>
    void add(const std::string& name, const std::string& dtype, const Tensor<Real>& tensor) {
        std::string bytes;
        if (dtype == "F64") bytes = packed<double>(tensor.data);
        else if (dtype == "F32") bytes = packed<float>(tensor.data);
        else if (dtype == "I64") bytes = packed<std::int64_t>(tensor.data);
        else if (dtype == "BOOL") bytes = packed<std::uint8_t>(tensor.data);
        else if (dtype == "BF16") {
            std::vector<std::uint16_t> bits;
            for (Real value : tensor.data) bits.push_back(to_bfloat16(static_cast<float>(value)));
            bytes = packed<std::uint16_t>(bits);
        } else throw Unsupported("no results of format " + dtype);
        std::ostringstream entry;
        entry << (header_.empty() ? "" : ",") << '"' << name << "\":{\"dtype\":\"" << dtype << "\",\"shape\":[";
        for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) entry << (axis ? "," : "") << tensor.shape[axis];
        entry << "],\"data_offsets\":[" << data_.size() << ',' << data_.size() + bytes.size() << "]}";
        header_ += entry.str();
        data_ += bytes;
    }

    void write(const std::string& path) const {
        std::string header = '{' + header_ + '}';
        header.resize((header.size() + 7) / 8 * 8, ' ');
        std::uint64_t length = header.size();
        std::ofstream stream(path, std::ios::binary);
        stream.write(reinterpret_cast<const char*>(&length), 8);
        stream << header << data_;
        if (!stream.flush()) throw std::runtime_error(path + " cannot be written");
    }

   private:
    std::string header_, data_;
};
