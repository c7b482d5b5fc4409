"""Cases as plain files, for implementations in any language.

question    what is asked: a layer or a model, its options, its tensors; as JSON and safetensors
expected    what is expected of an answer: float64 values and the budgets of the judge
write       a directory of cases (`refimpl golden vectors`)
onnx_cases  the same in the layout of ONNX's backend tests
door        a backend that answers questions in files, whatever it is
program     a program that answers them (`exec:./runner`)
answers     a directory in which they have been answered (`answers:DIR`)
"""
