/* Runs a SavedModel through TensorFlow's C API, without Python.

   run_saved_model DIR INPUT OUTPUT DIMENSION... < floats > floats
   INPUT and OUTPUT are tensor names as a SignatureDef gives them, such as "scores:0". */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void require(TF_Status *status) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s\n", TF_Message(status));
    exit(1);
  }
}

static TF_Output find(TF_Graph *graph, char *name) {
  char *mark = strrchr(name, ':');
  *mark = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(mark + 1)};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return output;
}

int main(int argc, char **argv) {
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  require(status);

  int64_t dimensions[8];
  size_t count = 1;
  int rank = argc - 4;
  for (int i = 0; i < rank; ++i) {
    dimensions[i] = atoll(argv[i + 4]);
    count *= dimensions[i];
  }
  TF_Tensor *input_value =
      TF_AllocateTensor(TF_FLOAT, dimensions, rank, count * sizeof(float));
  if (fread(TF_TensorData(input_value), sizeof(float), count, stdin) != count) return 1;

  TF_Output input = find(graph, argv[2]), output = find(graph, argv[3]);
  TF_Tensor *output_value = NULL;
  TF_SessionRun(session, NULL, &input, &input_value, 1, &output, &output_value, 1, NULL, 0, NULL,
                status);
  require(status);
  fwrite(TF_TensorData(output_value), 1, TF_TensorByteSize(output_value), stdout);

  TF_DeleteTensor(input_value);
  TF_DeleteTensor(output_value);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
