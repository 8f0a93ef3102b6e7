// Plans in CUDA graphs.
#include "gpu_case.h"

namespace sotto::test {
namespace {

// What a plan does, as a graph. Capturing in global mode refuses whatever allocates or waits.
class Captured {
 public:
  Captured(const Plan& plan, const GpuCase& gpu_case, Workspace workspace) {
    cuda::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "capture");
    plan.run(gpu_case, workspace, stream_);
    cuda::check(cudaStreamEndCapture(stream_, &graph_), "end of capture");
    cuda::check(cudaGraphInstantiate(&executable_, graph_, 0), "instantiate");
  }
  ~Captured() {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  void launch() const { cuda::check(cudaGraphLaunch(executable_, stream_), "launch"); }

  std::vector<cudaGraphNodeType> node_types() const {
    std::size_t count = 0;
    cuda::check(cudaGraphGetNodes(graph_, nullptr, &count), "count nodes");
    std::vector<cudaGraphNode_t> nodes(count);
    cuda::check(cudaGraphGetNodes(graph_, nodes.data(), &count), "list nodes");
    std::vector<cudaGraphNodeType> types(count);
    for (std::size_t n = 0; n < count; ++n) {
      cuda::check(cudaGraphNodeGetType(nodes[n], &types[n]), "type of a node");
    }
    return types;
  }

 private:
  CudaStream stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

class Graphs : public OnGpu {};

TEST_F(Graphs, ReplayComputesWhatTheTensorsHoldThen) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    const GpuCase other(with_other_data(line));
    GpuCase first(line);
    const Plan plan(first);
    const Workspace workspace = first.workspace(plan.workspace_size());
    // Captured before any run: what a first run sets up must not need the device.
    const Captured graph(plan, first, workspace);
    plan.run(first, workspace);
    const std::vector<std::byte> expected = first.result();
    run_simply(other);
    const std::vector<std::byte> expected_of_other = other.result();
    ASSERT_NE(expected, expected_of_other);

    first.spoil_result();
    graph.launch();
    EXPECT_EQ(first.result(), expected);
    first.take_inputs_of(other);
    graph.launch();
    EXPECT_EQ(first.result(), expected_of_other);
    first.spoil_result();
    for (int n = 0; n < 20; ++n) graph.launch();
    EXPECT_EQ(first.result(), expected_of_other);
  }
}

TEST_F(Graphs, HoldKernelsAndCopiesAlone) {
  for (const std::string& line : kinds()) {
    GpuCase gpu_case(line);
    const Plan plan(gpu_case);
    const Captured graph(plan, gpu_case, gpu_case.workspace(plan.workspace_size()));
    for (const cudaGraphNodeType type : graph.node_types()) {
      EXPECT_TRUE(type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemset ||
                  type == cudaGraphNodeTypeMemcpy)
          << line << ": a node of type " << type;
    }
  }
}

// Their workspace becomes a pair of nodes of the graph.
TEST_F(Graphs, ConvenienceCallsMayBeCapturedToo) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    const GpuCase gpu_case(line);
    run_simply(gpu_case);
    const std::vector<std::byte> expected = gpu_case.result();
    gpu_case.spoil_result();
    const CudaStream stream;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    run_simply(gpu_case, stream);
    cuda::check(cudaStreamEndCapture(stream, &graph), "end of capture");
    cuda::check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
    for (int n = 0; n < 3; ++n) cuda::check(cudaGraphLaunch(executable, stream), "launch");
    EXPECT_EQ(gpu_case.result(), expected);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
}

}  // namespace
}  // namespace sotto::test
