// The AXI4 write master: outputs, 16 channels at a time, each extended from 18 to 32 bits.
//
// An entry has the address in beats, how many beats (1, 2 or 4) and 16 numbers.
// `halt` stops new bursts; one that is begun is completed with no byte enabled, until `quiet`.
module writer #(
    parameter int unsigned DEPTH = 512  // entries that wait
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         halt,
    output logic         quiet,
    output logic         error,    // a cycle: an answer was not OKAY
    output logic         waiting,  // the bus owes a handshake

    input  logic         push,
    input  logic [35:0]  push_address,
    input  logic [2:0]   push_beats,
    input  logic [287:0] push_values,
    output logic         room,     // for what a pipeline of 64 cycles may still bring
    output logic         written,  // a cycle: a beat went out

    output logic         m_axi_awvalid,
    input  logic         m_axi_awready,
    output logic [39:0]  m_axi_awaddr,
    output logic [7:0]   m_axi_awlen,
    output logic         m_axi_wvalid,
    input  logic         m_axi_wready,
    output logic [127:0] m_axi_wdata,
    output logic [15:0]  m_axi_wstrb,
    output logic         m_axi_wlast,
    input  logic         m_axi_bvalid,
    output logic         m_axi_bready,
    input  logic [1:0]   m_axi_bresp
);
  localparam int unsigned BITS = $clog2(DEPTH);

  logic valid, take;
  logic [35:0] address;
  logic [2:0] beats;
  logic [287:0] values, left;
  logic [2:0] beats_left;
  logic [BITS:0] count;
  logic [5:0] open;  // bursts without an answer

  fifo #(.WIDTH(327), .DEPTH(DEPTH)) entries (
      .clk,
      .rst(rst || halt),
      .push(push && !halt),
      .in({push_address, push_beats, push_values}),
      .valid,
      .out({address, beats, values}),
      .pop(take),
      .count
  );
  always_ff @(posedge clk) room <= count < (BITS + 1)'(DEPTH - 64);

  // The next burst begins in the cycle in which the last beat of this one goes.
  assign take = valid && !halt && open != 6'd63 && (!m_axi_awvalid || m_axi_awready)
                && (!m_axi_wvalid || (m_axi_wready && m_axi_wlast));
  assign m_axi_wlast = beats_left == 3'd1;
  assign written = m_axi_wvalid && m_axi_wready;
  assign m_axi_bready = 1'b1;

  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : g_value
      assign m_axi_wdata[32*i+:32] = {{14{left[18*i+17]}}, left[18*i+:18]};
    end
  endgenerate

  always_ff @(posedge clk) begin
    if (rst) begin
      m_axi_awvalid <= 1'b0;
      m_axi_wvalid <= 1'b0;
      m_axi_wstrb <= '0;
      open <= '0;
      error <= 1'b0;
    end else begin
      if (take) m_axi_awvalid <= 1'b1;
      else if (m_axi_awready) m_axi_awvalid <= 1'b0;
      if (take) m_axi_wvalid <= 1'b1;
      else if (written && m_axi_wlast) m_axi_wvalid <= 1'b0;
      // A payload that waits for its handshake stays as it is.
      if (take) m_axi_wstrb <= '1;
      else if (written && halt) m_axi_wstrb <= '0;
      open <= open + 6'(take) - 6'(m_axi_bvalid);
      error <= m_axi_bvalid && m_axi_bresp != 2'd0;
    end
  end
  always_ff @(posedge clk) begin
    if (take) begin
      m_axi_awaddr <= {address, 4'd0};
      m_axi_awlen <= {5'd0, beats - 3'd1};
      left <= values;
      beats_left <= beats;
    end else if (written) begin
      left <= {72'd0, left[287:72]};
      beats_left <= beats_left - 3'd1;
    end
  end

  assign quiet = !m_axi_awvalid && !m_axi_wvalid && !valid && count == '0 && open == '0;
  assign waiting = (m_axi_awvalid && !m_axi_awready) || (m_axi_wvalid && !m_axi_wready)
                   || (open != '0 && !m_axi_bvalid);
endmodule
