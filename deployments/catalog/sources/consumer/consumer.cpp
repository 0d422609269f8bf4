// What somebody does with libtorch who has only the wheel: tensors, gradients, training, files, and a model that
// AOTInductor compiled ahead of time.
//
//   consumer tensor | autograd | training | files
//   consumer aoti MODEL.pt2 [EXPECTED.pt]     (expected.pt beside the model, unless another is named)
//
// Prints its figures; exit code 0 when they agree, 1 when they do not, 2 when it was called wrongly.

#include <torch/torch.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr double kTolerance = 1e-4;

// Compares as torch.allclose does, prints the largest difference, and throws when it is too large.
void agree(const std::string& what, const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) {
    std::ostringstream message;
    message << what << ": shape " << actual.sizes() << " where " << expected.sizes() << " was expected";
    throw std::runtime_error(message.str());
  }
  const double difference = (actual - expected).abs().max().item<double>();
  std::cout << what << ": largest difference " << difference << "\n";
  if (!at::allclose(actual, expected, kTolerance, kTolerance)) {
    throw std::runtime_error(what + ": they differ by " + std::to_string(difference));
  }
}

void tensor() {
  const auto a = at::arange(12, at::kDouble).reshape({3, 4});
  agree("sum over rows", a.sum(0), at::tensor({12.0, 15.0, 18.0, 21.0}, at::kDouble));
  agree("a view shares its storage", a.t().t(), a);
  const auto b = at::randn({64, 64}, at::kDouble) + 64 * at::eye(64, at::kDouble);
  agree("inverse times itself", b.matmul(at::linalg_inv(b)), at::eye(64, at::kDouble));
  agree("broadcasting", a + at::ones({4}, at::kDouble), a.add(1));
  const auto single = b.to(at::kFloat);
  agree("product in single and in double precision", single.matmul(single).div(4096).to(at::kDouble), b.matmul(b).div(4096));
}

void autograd() {
  const auto x = torch::linspace(-2, 2, 101, torch::dtype(torch::kDouble).requires_grad(true));
  const auto y = (x.sin() * x.pow(2)).sum();
  const auto first = torch::autograd::grad({y}, {x}, {}, true, true)[0];
  const auto value = x.detach();
  agree("first derivative", first.detach(), value.cos() * value.pow(2) + 2 * value * value.sin());
  const auto second = torch::autograd::grad({first.sum()}, {x})[0];
  agree("second derivative", second,
        2 * value.sin() + 4 * value * value.cos() - value.pow(2) * value.sin());
}

void training() {
  torch::manual_seed(7);
  torch::nn::Sequential model(torch::nn::Linear(8, 32), torch::nn::Tanh(), torch::nn::Linear(32, 1));
  torch::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(1e-2));
  const auto inputs = torch::randn({256, 8});
  const auto targets = inputs.pow(2).sum(1, true).sqrt();
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    const auto loss = torch::mse_loss(model->forward(inputs), targets);
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (step == 0) first = last;
  }
  std::cout << "loss " << first << " before, " << last << " after 100 steps\n";
  if (!(last < first / 10)) throw std::runtime_error("training did not lower the loss to a tenth");
}

std::vector<char> contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void files() {
  const auto path = std::filesystem::temp_directory_path() / ("consumer-" + std::to_string(getpid()) + ".pt");
  const auto kept = torch::randn({17, 5});
  torch::save(kept, path.string());
  at::Tensor read;
  torch::load(read, path.string());
  std::filesystem::remove(path);
  agree("written and read again", read, kept);
}

// The tensors of a list that Python's torch.save wrote.
std::vector<at::Tensor> tensors(const c10::IValue& list) {
  std::vector<at::Tensor> found;
  for (const c10::IValue& item : list.toListRef()) found.push_back(item.toTensor());
  return found;
}

// Runs the compiled model on every case that Python recorded: {"inputs": [tensor, ...], "outputs": [tensor, ...]}.
void aoti(const std::filesystem::path& package, const std::filesystem::path& expected_path) {
  torch::inductor::AOTIModelPackageLoader loader(package.string());
  const auto expected = torch::pickle_load(contents(expected_path)).toGenericDict();
  const auto inputs = tensors(expected.at("inputs"));
  const auto outputs = tensors(expected.at("outputs"));
  if (inputs.empty() || inputs.size() != outputs.size()) throw std::runtime_error("the expected outputs hold no cases");
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::ostringstream what;
    what << "compiled model, input " << inputs[i].sizes();
    agree(what.str(), loader.run({inputs[i]}).at(0), outputs[i]);
  }
}

int usage() {
  std::cerr << "usage: consumer tensor | autograd | training | files | aoti MODEL.pt2 [EXPECTED.pt]\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty()) return usage();
  std::cout << "libtorch " << TORCH_VERSION << "\n";
  try {
    torch::manual_seed(1);
    if (args[0] == "tensor") tensor();
    else if (args[0] == "autograd") autograd();
    else if (args[0] == "training") training();
    else if (args[0] == "files") files();
    else if (args[0] == "aoti" && args.size() == 2) aoti(args[1], std::filesystem::path(args[1]).replace_filename("expected.pt"));
    else if (args[0] == "aoti" && args.size() == 3) aoti(args[1], args[2]);
    else return usage();
  } catch (const c10::Error& error) {
    std::cout << "FAILED: " << error.what_without_backtrace() << std::endl;
    return 1;
  } catch (const std::exception& error) {
    std::cout << "FAILED: " << error.what() << std::endl;
    return 1;
  }
  std::cout << "agreed" << std::endl;
  return 0;
}
